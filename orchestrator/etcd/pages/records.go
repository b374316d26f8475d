package pages

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"slices"
)

// Record is what one revision left of one key. Deleted records hold the key alone.
type Record struct {
	Revision, Sub int64 // several keys can change in one revision: Sub counts them
	Deleted       bool
	Value         []byte // mvccpb.KeyValue; valid until the callback returns
	Offset        int64  // of Value in the file
}

// maxNode bounds what is read at once: a page, with the pages that its largest value runs over. etcd's limit
// for a request is 1.5 MiB unless a flag raises it.
const maxNode = 64 << 20

// Records calls fn with all records of a snapshot in the order of their revisions: every revision of every
// key that was not compacted away. size is the file's in bytes. Damaged content is Corrupt; errors of r keep
// their kind, those of fn are returned as they are.
func Records(ctx context.Context, r io.ReaderAt, size int64, fn func(Record) error) error {
	db, err := openDatabase(r, size)
	if err != nil {
		return err
	}
	root, found, err := db.bucket("key")
	if err != nil {
		return err
	}
	if !found {
		return corrupt("it has no bucket of keys: it is not etcd's database")
	}
	s := &scan{db: db, left: db.size, fn: fn}
	return s.node(ctx, root, maxDepth)
}

// scan reads a whole bucket, a page at a time.
type scan struct {
	db   *database
	left int64  // bytes: pages do not overlap, so that all of them fit into the file
	page []byte // the one that is read, in memory that all of them share
	last [18]byte
	fn   func(Record) error
}

func (s *scan) node(ctx context.Context, n node, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.left -= n.end - n.at; depth == 0 || s.left < 0 {
		return corrupt("its pages form a loop")
	}
	if n.flags == branchPage {
		for i := range n.count {
			child, err := s.db.child(n, i)
			if err != nil {
				return err
			}
			if err := s.node(ctx, child, depth-1); err != nil {
				return err
			}
		}
		return nil
	}
	if n.end-n.at > maxNode {
		return corrupt("the page at offset %d has %d bytes", n.at, n.end-n.at)
	}
	s.page = slices.Grow(s.page[:0], int(n.end-n.at))[:n.end-n.at]
	if err := s.db.fill(s.page, n.at); err != nil {
		return err
	}
	free := int64(0)
	for i := range n.count {
		end, err := s.element(s.page, n, i, free)
		if err != nil {
			return err
		}
		free = end
	}
	return nil
}

// element reads element i of a leaf: see database.leaf. What it holds stands after what those before it hold, at
// free or behind it; it returns where its own ends.
func (s *scan) element(raw []byte, n node, i int, free int64) (int64, error) {
	at := pageHeaderSize + i*elementSize
	if at+elementSize > len(raw) {
		return 0, corrupt("element %d of the page at offset %d is out of bounds", i, n.at)
	}
	position, keySize, valueSize := extent(raw[at:])
	from := int64(at) + position
	middle := from + keySize
	end := middle + valueSize
	if from < free || end > int64(len(raw)) {
		return 0, corrupt("element %d of the page at offset %d runs over its end, or into another", i, n.at)
	}
	key := raw[from:middle]
	revision, ok := parseRevision(key)
	if !ok {
		return 0, corrupt("the key %x at offset %d is no revision", key[:min(len(key), 32)], n.at+from)
	}
	if bytes.Compare(key, s.last[:]) <= 0 {
		return 0, corrupt("revision %d at offset %d is out of order", revision, n.at+from)
	}
	s.last = [18]byte{}
	copy(s.last[:], key)
	return end, s.fn(Record{
		Revision: revision, Sub: int64(binary.BigEndian.Uint64(key[9:])), Deleted: len(key) == 18 && key[17] == 't',
		Value: raw[middle:end], Offset: n.at + middle,
	})
}
