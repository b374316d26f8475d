package pages

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"slices"
	"strings"
)

// Contents is what a snapshot says about itself.
type Contents struct {
	// Revision is the one that etcd will have after it opened this database: that of the newest key,
	// or of a compaction that went further.
	Revision int64
	// Compacted is the revision up to which history is gone, or going.
	Compacted int64
	// Members are the names of the members, sorted, by what the database remembers.
	Members []string
	// ClusterVersion is etcd's lowest common version, "3.6.0"; empty in a restored database that was
	// never started.
	ClusterVersion string
}

// Revision returns the newest revision in a snapshot, with or without the hash at its end. size is
// the file's in bytes. Damaged content is Corrupt; errors of r keep their kind.
func Revision(r io.ReaderAt, size int64) (int64, error) {
	contents, err := Read(r, size)
	return contents.Revision, err
}

// Read returns what a snapshot says about itself: see Revision. It reads a few pages only; it does
// not say that the rest is intact, which Check does.
func Read(r io.ReaderAt, size int64) (Contents, error) {
	db, err := openDatabase(r, size)
	if err != nil {
		return Contents{}, err
	}
	out := Contents{Revision: 1} // etcd counts from one, which an empty database has
	if err := db.newest(&out); err != nil {
		return Contents{}, err
	}
	if err := db.compactions(&out); err != nil {
		return Contents{}, err
	}
	return out, db.membership(&out)
}

// newest looks at the last key of the bucket "key". Its keys are revisions in an order that sorts
// like numbers: main revision, '_', sub revision, and 't' when the key was deleted
// (go.etcd.io/etcd/server/storage/mvcc/revision.go).
func (db *database) newest(out *Contents) error {
	root, found, err := db.bucket("key")
	if err != nil {
		return err
	}
	if !found {
		return corrupt("it has no bucket of keys: it is not etcd's database")
	}
	e, found, err := db.last(root)
	if err != nil || !found {
		return err
	}
	revision, ok := parseRevision(e.key)
	if !ok {
		return corrupt("its newest key %x is no revision", e.key)
	}
	out.Revision = max(out.Revision, revision)
	return nil
}

// parseRevision reads the main revision out of its 17 bytes; a mark may follow.
func parseRevision(raw []byte) (int64, bool) {
	if len(raw) != 17 && len(raw) != 18 || raw[8] != '_' {
		return 0, false
	}
	main := int64(binary.BigEndian.Uint64(raw))
	return main, main >= 0
}

// compactions looks for the compaction that has ended and the one that was begun. When the newest
// keys were all deleted and compacted away, etcd goes on from there, and so does Revision
// (go.etcd.io/etcd/server/storage/mvcc/kvstore.go, restore).
func (db *database) compactions(out *Contents) error {
	return db.eachIn("meta", func(key, value []byte) error {
		if !bytes.Equal(key, []byte("finishedCompactRev")) && !bytes.Equal(key, []byte("scheduledCompactRev")) {
			return nil
		}
		revision, ok := parseRevision(value)
		if !ok {
			return corrupt("its %s is no revision", key)
		}
		out.Compacted = max(out.Compacted, revision)
		out.Revision = max(out.Revision, revision)
		return nil
	})
}

func (db *database) membership(out *Contents) error {
	err := db.eachIn("members", func(key, value []byte) error {
		var member struct {
			Name string `json:"name"`
		}
		if err := json.Unmarshal(value, &member); err != nil {
			return corrupt("its record of member %q: %v", key, err)
		}
		out.Members = append(out.Members, member.Name)
		return nil
	})
	if err != nil {
		return err
	}
	slices.Sort(out.Members)
	return db.eachIn("cluster", func(key, value []byte) error {
		if bytes.Equal(key, []byte("clusterVersion")) {
			out.ClusterVersion = strings.ToValidUTF8(string(value), "?")
		}
		return nil
	})
}

// eachIn calls fn with all of a small bucket; a bucket that is not there is empty.
func (db *database) eachIn(name string, fn func(key, value []byte) error) error {
	root, found, err := db.bucket(name)
	if err != nil || !found {
		return err
	}
	left := int64(maxBucket)
	return db.each(root, func(e element) error {
		if left -= e.size; left < 0 {
			return corrupt("bucket %q has more than %d bytes", name, maxBucket)
		}
		value, err := db.read(e.at, e.size, db.size)
		if err != nil {
			return err
		}
		return fn(e.key, value)
	})
}
