package pages

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"io"

	"github.com/musterdr/muster/providers/fault"
)

// The format is bbolt's (go.etcd.io/bbolt, internal/common: meta.go, page.go, inode.go). Only what is
// asked for is read, a few bytes at a time, and nothing in the file is taken for granted: every offset
// is checked against the page it stands in, and both depth and the number of elements are bounded, so
// that a page which points to itself comes to an end.
//
// All integers are little-endian, the byte order of the machine that wrote them: bbolt files of
// big-endian machines are refused by their magic number.

const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	pageHeaderSize = 16 // id u64, flags u16, count u16, overflow u32
	elementSize    = 16 // of branch and leaf elements alike
	metaSize       = 64 // magic, version, pageSize, flags u32; root {page, sequence}, freelist, high water, txid, checksum u64
	bucketSize     = 16 // root page u64, sequence u64

	branchPage = 0x01
	leafPage   = 0x02
	bucketLeaf = 0x01 // flag of an element whose value is a bucket

	minPageSize = 1 << 10
	maxPageSize = 1 << 24
	maxDepth    = 32      // a page holds at least two keys: more levels than any file could fill
	maxKey      = 1 << 15 // bbolt's MaxKeySize
	maxBucket   = 1 << 20 // of all values of a bucket that is read in full: members, revisions, versions
	maxElements = 1 << 16 // of the buckets that are read in full: buckets, members
)

// database is a bbolt file.
type database struct {
	r        io.ReaderAt
	size     int64
	pageSize int64
	root     uint64 // page of the bucket that holds the buckets
	pages    uint64 // the high water mark: all pages are below
}

// node is a page, or the page that is written inside an element's value (an inline bucket).
type node struct {
	at, end int64 // offsets in the file
	flags   uint16
	count   int
}

// element is one entry of a leaf.
type element struct {
	bucket bool
	key    []byte
	at     int64 // of the value
	size   int64
}

func corrupt(format string, args ...any) error {
	return fault.Newf("read etcd snapshot", fault.Corrupt, "", format, args...)
}

// openDatabase reads the newer of the two meta pages whose checksum is right.
func openDatabase(r io.ReaderAt, size int64) (*database, error) {
	if size%512 == 32 {
		size -= 32 // the hash at the end
	}
	db := &database{r: r, size: size}
	first, err := db.meta(0)
	if err != nil && !fault.Is(err, fault.Corrupt) {
		return nil, err
	}
	newest := first
	for _, at := range db.secondMeta(first) {
		if second, err := db.meta(at); err == nil && second.pageSize == at && (newest == nil || second.txid > newest.txid) {
			newest = second
		}
	}
	if newest == nil {
		return nil, corrupt("no valid meta page: it is no bbolt database, or its beginning is damaged")
	}
	db.pageSize, db.root, db.pages = newest.pageSize, newest.root, newest.pages
	if db.pages > uint64(size)/uint64(db.pageSize) {
		return nil, corrupt("it has %d bytes, its meta page tells of %d pages of %d: it is cut off", size, db.pages, db.pageSize)
	}
	return db, nil
}

// secondMeta lists where the second meta page can stand: one page after the first, whose size nobody
// knows when the first is damaged.
func (db *database) secondMeta(first *metaPage) []int64 {
	if first != nil {
		return []int64{first.pageSize}
	}
	var out []int64
	for at := int64(minPageSize); at <= maxPageSize && at < db.size; at <<= 1 {
		out = append(out, at)
	}
	return out
}

type metaPage struct {
	pageSize    int64
	root, pages uint64
	txid        uint64
}

func (db *database) meta(at int64) (*metaPage, error) {
	raw, err := db.read(at+pageHeaderSize, metaSize, db.size)
	if err != nil {
		return nil, err
	}
	u32, u64 := binary.LittleEndian.Uint32, binary.LittleEndian.Uint64
	if u32(raw) != boltMagic || u32(raw[4:]) != boltVersion {
		return nil, corrupt("no bbolt meta page of version %d at offset %d", boltVersion, at)
	}
	sum := fnv.New64a()
	sum.Write(raw[:56])
	if sum.Sum64() != u64(raw[56:]) {
		return nil, corrupt("the checksum of the meta page at offset %d is wrong", at)
	}
	m := &metaPage{pageSize: int64(u32(raw[8:])), root: u64(raw[16:]), pages: u64(raw[40:]), txid: u64(raw[48:])}
	if m.pageSize < minPageSize || m.pageSize > maxPageSize || m.pageSize&(m.pageSize-1) != 0 {
		return nil, corrupt("page size %d", m.pageSize)
	}
	return m, nil
}

// read returns n bytes at an offset; all of them must stand before end.
func (db *database) read(at, n, end int64) ([]byte, error) {
	if at < 0 || n < 0 || end > db.size || at > end || n > end-at {
		return nil, corrupt("%d bytes at offset %d are out of bounds", n, at)
	}
	p := make([]byte, n)
	return p, db.fill(p, at)
}

// fill reads all of p.
func (db *database) fill(p []byte, at int64) error {
	got, err := db.r.ReadAt(p, at)
	if got == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return corrupt("it ends at offset %d", at+int64(got))
	}
	return fault.New("read etcd snapshot", fault.KindOf(err), "", err)
}

// page returns the node that is page number id.
func (db *database) page(id uint64) (node, error) {
	if id < 2 || id >= db.pages {
		return node{}, corrupt("page %d is out of bounds", id)
	}
	at := int64(id) * db.pageSize
	header, err := db.read(at, pageHeaderSize, db.size)
	if err != nil {
		return node{}, err
	}
	if binary.LittleEndian.Uint64(header) != id {
		return node{}, corrupt("page %d says that it is page %d", id, binary.LittleEndian.Uint64(header))
	}
	overflow := uint64(binary.LittleEndian.Uint32(header[12:]))
	if overflow >= db.pages-id {
		return node{}, corrupt("page %d runs over the end", id)
	}
	return parseNode(header, at, at+int64(overflow+1)*db.pageSize)
}

func parseNode(header []byte, at, end int64) (node, error) {
	n := node{
		at: at, end: end,
		flags: binary.LittleEndian.Uint16(header[8:]),
		count: int(binary.LittleEndian.Uint16(header[10:])),
	}
	if n.flags != branchPage && n.flags != leafPage {
		return node{}, corrupt("the page at offset %d is neither branch nor leaf", at)
	}
	if n.flags == branchPage && n.count == 0 {
		return node{}, corrupt("the branch page at offset %d is empty", at)
	}
	return n, nil
}

// child returns the page that element i of a branch points to: its position, key size, page number.
func (db *database) child(n node, i int) (node, error) {
	raw, err := db.read(n.at+pageHeaderSize+int64(i)*elementSize, elementSize, n.end)
	if err != nil {
		return node{}, err
	}
	return db.page(binary.LittleEndian.Uint64(raw[8:]))
}

// leaf returns element i of a leaf: flags, position from the element itself, key size, value size.
func (db *database) leaf(n node, i int) (element, error) {
	at := n.at + pageHeaderSize + int64(i)*elementSize
	raw, err := db.read(at, elementSize, n.end)
	if err != nil {
		return element{}, err
	}
	position, keySize, valueSize := extent(raw)
	if keySize > maxKey {
		return element{}, corrupt("a key at offset %d has %d bytes", at, keySize)
	}
	key, err := db.read(at+position, keySize, n.end)
	if err != nil {
		return element{}, err
	}
	e := element{bucket: binary.LittleEndian.Uint32(raw)&bucketLeaf != 0, key: key, at: at + position + keySize, size: valueSize}
	if valueSize > n.end-e.at {
		return element{}, corrupt("a value at offset %d runs over the end of its page", e.at)
	}
	return e, nil
}

// extent is where an element's key stands, from the element itself, and how long key and value are.
func extent(element []byte) (position, keySize, valueSize int64) {
	u32 := binary.LittleEndian.Uint32
	return int64(u32(element[4:])), int64(u32(element[8:])), int64(u32(element[12:]))
}

// bucket returns the root node of a bucket of the first level; false when there is none.
func (db *database) bucket(name string) (root node, found bool, err error) {
	top, err := db.page(db.root)
	if err != nil {
		return node{}, false, err
	}
	err = db.each(top, func(e element) error {
		if !e.bucket || !bytes.Equal(e.key, []byte(name)) {
			return nil
		}
		root, err = db.open(e)
		found = err == nil
		return err
	})
	return root, found, err
}

// open returns the root node of the bucket that an element holds. Small buckets stand in the value
// itself, after the bucket's header.
func (db *database) open(e element) (node, error) {
	if e.size < bucketSize {
		return node{}, corrupt("bucket %q has a header of %d bytes", e.key, e.size)
	}
	header, err := db.read(e.at, bucketSize, db.size)
	if err != nil {
		return node{}, err
	}
	if id := binary.LittleEndian.Uint64(header); id != 0 {
		return db.page(id)
	}
	end := e.at + e.size
	page, err := db.read(e.at+bucketSize, pageHeaderSize, end)
	if err != nil {
		return node{}, err
	}
	return parseNode(page, e.at+bucketSize, end)
}

// last returns the element with the greatest key below a node; false when it holds none.
func (db *database) last(n node) (element, bool, error) {
	for range maxDepth {
		if n.flags == leafPage && n.count == 0 {
			return element{}, false, nil
		}
		if n.flags == leafPage {
			e, err := db.leaf(n, n.count-1)
			return e, err == nil, err
		}
		next, err := db.child(n, n.count-1)
		if err != nil {
			return element{}, false, err
		}
		n = next
	}
	return element{}, false, corrupt("its pages form a loop")
}

// each calls fn with all elements below a small node, in the order of their keys.
func (db *database) each(n node, fn func(element) error) error {
	left := maxElements
	return db.walk(n, maxDepth, &left, fn)
}

func (db *database) walk(n node, depth int, left *int, fn func(element) error) error {
	if depth == 0 {
		return corrupt("its pages form a loop")
	}
	for i := range n.count {
		if *left--; *left < 0 {
			return corrupt("a bucket has more than %d elements", maxElements)
		}
		if n.flags == branchPage {
			next, err := db.child(n, i)
			if err != nil {
				return err
			}
			if err := db.walk(next, depth-1, left, fn); err != nil {
				return err
			}
			continue
		}
		e, err := db.leaf(n, i)
		if err != nil {
			return err
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}
