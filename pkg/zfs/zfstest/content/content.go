// Package content is what a dataset of the in-memory pool holds: sparse blocks that remember when they were written, shared
// between a dataset and its snapshots until somebody writes. Tests alone import it.
package content

import (
	"maps"
	"slices"
)

// BlockSize is the size of a block in bytes.
const BlockSize = 4096

// Block is a piece of content; nil data is a hole. Birth is the txg in which it was written here.
type Block struct {
	Data  []byte
	Birth uint64
}

// Content of a dataset or snapshot. Copies are made by Share only.
type Content struct {
	VolSize uint64
	// Born is how many bytes were written since the last snapshot.
	Born   uint64
	blocks map[int64]Block
	shared bool
}

// Share returns a copy that shares the blocks; who writes next, either of them, makes its own.
func (c *Content) Share() Content {
	c.shared = true
	return Content{blocks: c.blocks, shared: true, VolSize: c.VolSize}
}

// Copy is Share with what was written since the last snapshot: the same dataset at another time.
func (c *Content) Copy() Content {
	out := c.Share()
	out.Born = c.Born
	return out
}

// Put writes one block in txg; since is the last snapshot's.
func (c *Content) Put(i int64, data []byte, txg, since uint64) {
	if c.shared || c.blocks == nil {
		c.blocks, c.shared = maps.Clone(c.blocks), false
		if c.blocks == nil {
			c.blocks = map[int64]Block{}
		}
	}
	if c.blocks[i].Birth <= since {
		c.Born += BlockSize
	}
	c.blocks[i] = Block{Data: data, Birth: txg}
}

// Block returns one block's data.
func (c *Content) Block(i int64) []byte { return c.blocks[i].Data }

// Referenced is the size of what is not a hole.
func (c *Content) Referenced() uint64 {
	var n uint64
	for _, b := range c.blocks {
		if b.Data != nil {
			n += BlockSize
		}
	}
	return n
}

// BornAfter is how many bytes were written after txg.
func (c *Content) BornAfter(txg uint64) uint64 {
	var n uint64
	for _, b := range c.blocks {
		if b.Birth > txg {
			n += BlockSize
		}
	}
	return n
}

// Changed returns the blocks that were written after txg, in order. A hole is a change only where there is something before.
func (c *Content) Changed(after uint64) []int64 {
	var list []int64
	for i, b := range c.blocks {
		if b.Birth > after && (b.Data != nil || after > 0) {
			list = append(list, i)
		}
	}
	slices.Sort(list)
	return list
}

// Bytes returns it all: a zvol's whole size, else up to the last block that is not a hole.
func (c *Content) Bytes() []byte {
	end := int64(c.VolSize)
	for i, b := range c.blocks {
		if b.Data != nil {
			end = max(end, (i+1)*BlockSize)
		}
	}
	out := make([]byte, end)
	for i, b := range c.blocks {
		if i*BlockSize < end {
			copy(out[i*BlockSize:], b.Data)
		}
	}
	return out
}
