package history

import (
	bolt "go.etcd.io/bbolt"

	"github.com/tandemd/tandem/pkg/guest"
)

// From is the oldest run of a job whose ID is not below number; ok says whether
// there is one.
func (s *Store) From(id guest.JobID, number uint64) (r Run, ok bool, err error) {
	err = s.view(func(runs *bolt.Bucket) error {
		b := runs.Bucket(jobKey(id))
		if b == nil {
			return nil
		}
		k, v := b.Cursor().Seek(key(number))
		if k == nil {
			return nil
		}
		ok = true
		r, err = decode(v)
		return err
	})
	return r, ok && err == nil, err
}
