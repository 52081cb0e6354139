package plan

// Modes of a volume's streams. A volume keeps the one that it had when its guest was added: the two do not mix on a target.
const (
	// ModePlain is `zfs send -L -c -e`, for what is not encrypted.
	ModePlain = "plain"
	// ModeRaw is `zfs send -w`, for what is encrypted.
	ModeRaw = "raw"
)

// Facts are what a node tells of a volume beside its snapshots.
type Facts struct {
	// Mode is the one recorded on the dataset; empty where none is.
	Mode string
	// RecordSize is the recordsize or volblocksize, Referenced what the dataset holds now, both in bytes.
	RecordSize, Referenced uint64
	// Compression and DNodeSize are the properties.
	Compression, DNodeSize string
	Pool                   Pool
}

// Pool is the pool of a dataset; the name is empty where nothing is known of it.
type Pool struct {
	Name string
	// ReadOnly says that it is imported so.
	ReadOnly bool
	// Features are those of gate.Relevant, name to disabled, enabled or active.
	Features map[string]string
}

// ModeOf is how a volume travels: as was recorded, else as it is now.
func ModeOf(recorded string, encrypted bool) string {
	switch {
	case recorded != "":
		return recorded
	case encrypted:
		return ModeRaw
	default:
		return ModePlain
	}
}

func (s Side) mode() string { return ModeOf(s.Mode, s.Encrypted) }
