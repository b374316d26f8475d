package etcd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/musterdr/muster/providers/fault"
)

const streaming = "stream etcd snapshot"

// SnapshotInfo describes a snapshot that was streamed whole.
type SnapshotInfo struct {
	Endpoint string
	Version  string // etcd's storage version, "3.6.0"; empty from members before 3.6
	Size     int64  // bytes, the trailing hash included
	Digest   string // hexadecimal SHA-256 of the database: what the trailing hash says
	// Encrypted tells that a Secret's value is stored encrypted by the API server.
	Encrypted bool
}

// Snapshot streams the database of the member behind endpoint into w as it arrives: bbolt file, then
// its SHA-256, which is checked on the way; a mismatch or a short stream is Corrupt, and what went
// into w is then worthless. A failed write is returned with the kind it has. Nothing is retried:
// w has seen part of the stream.
func Snapshot(ctx context.Context, access Access, endpoint string, w io.Writer) (SnapshotInfo, error) {
	client, err := access.connect(ctx, endpoint)
	if err != nil {
		return SnapshotInfo{}, err
	}
	defer client.Close() // the stream has ended or its error is returned

	// The messages are received here and not through the client's reader, which would copy each one
	// through a pipe.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := etcdserverpb.NewMaintenanceClient(client.ActiveConnection()).Snapshot(ctx, &etcdserverpb.SnapshotRequest{})
	if err != nil {
		return SnapshotInfo{}, failure(streaming, endpoint, err)
	}
	checked := newChecker(w)
	info := SnapshotInfo{Endpoint: endpoint}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return SnapshotInfo{}, failure(streaming, endpoint, err)
		}
		info.Version = part.Version
		if _, err := checked.Write(part.Blob); err != nil {
			return SnapshotInfo{}, fault.New(streaming, fault.KindOf(err), endpoint, err)
		}
	}
	if info.Digest, err = checked.sum(); err != nil {
		return SnapshotInfo{}, fault.New(streaming, fault.Corrupt, endpoint, err)
	}
	info.Size, info.Encrypted = checked.size, checked.encrypted
	return info, nil
}

// Check reads a snapshot to its end and compares it with its trailing hash: Corrupt when they differ.
// The digest and the size are those of SnapshotInfo.
func Check(r io.Reader) (digest string, size int64, err error) {
	checked := newChecker(io.Discard)
	if _, err := io.Copy(checked, r); err != nil {
		return "", 0, fault.New("check etcd snapshot", fault.KindOf(err), "", err)
	}
	if digest, err = checked.sum(); err != nil {
		return "", 0, fault.New("check etcd snapshot", fault.Corrupt, "", err)
	}
	return digest, checked.size, nil
}

// CheckFile compares a file with the hash at its end. A database that was copied out of a member's folder has
// whole sectors and no hash, and is not read here.
func CheckFile(r io.ReaderAt, size int64) error {
	const sector = 512
	if size%sector == 0 {
		return nil
	}
	_, _, err := Check(io.NewSectionReader(r, 0, size))
	return err
}

// checker passes a snapshot on and hashes all but its last 32 bytes.
type checker struct {
	w         io.Writer
	hash      hash.Hash
	tail      []byte // the last bytes seen, at most a hash's length: not hashed yet
	size      int64
	context   []byte // the end of the previous write, for the search
	encrypted bool
}

func newChecker(w io.Writer) *checker {
	return &checker{w: w, hash: sha256.New()}
}

// Write implements io.Writer.
func (c *checker) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	if err != nil {
		return n, err
	}
	c.size += int64(len(p))
	c.search(p)
	c.absorb(p)
	return len(p), nil
}

func (c *checker) absorb(p []byte) {
	if len(p) >= sha256.Size {
		c.hash.Write(c.tail)
		c.hash.Write(p[:len(p)-sha256.Size])
		c.tail = append(c.tail[:0], p[len(p)-sha256.Size:]...)
		return
	}
	c.tail = append(c.tail, p...)
	if over := len(c.tail) - sha256.Size; over > 0 {
		c.hash.Write(c.tail[:over])
		c.tail = append(c.tail[:0], c.tail[over:]...)
	}
}

func (c *checker) sum() (string, error) {
	// etcd's own rule for "has a hash": databases are whole disk sectors.
	if c.size%512 != sha256.Size {
		return "", fmt.Errorf("%d bytes are no database followed by its SHA-256: the stream broke off, take the snapshot again", c.size)
	}
	digest := c.hash.Sum(nil)
	if !bytes.Equal(digest, c.tail) {
		return "", fmt.Errorf("its SHA-256 is %x, the one at its end %x: discard it and take another", digest, c.tail)
	}
	return hex.EncodeToString(digest), nil
}

const (
	encryptedPrefix = "k8s:enc:"
	secretsKey      = "/secrets/"
	// keyReach is how far before its value a Secret's key can begin: namespace and name (63 and 253
	// at most), the prefix, and four integers in protobuf form.
	keyReach = 63 + 253 + 128
)

// search looks for a Secret's key followed by a value with the prefix that the API server gives to
// what it encrypts (k8s.io/apiserver/pkg/storage/value). A stale page may hold one that is gone: the
// answer then errs to the side of keeping keys that are no longer needed.
func (c *checker) search(p []byte) {
	if c.encrypted {
		return
	}
	const overlap = keyReach + len(encryptedPrefix)
	seam := slices.Concat(c.context, p[:min(len(p), overlap)])
	c.encrypted = holdsEncrypted(seam) || holdsEncrypted(p)
	if len(p) >= overlap {
		c.context = append(c.context[:0], p[len(p)-overlap:]...)
		return
	}
	c.context = append(c.context[:0], seam[max(0, len(seam)-overlap):]...)
}

func holdsEncrypted(p []byte) bool {
	for from := 0; ; {
		at := bytes.Index(p[from:], []byte(encryptedPrefix))
		if at < 0 {
			return false
		}
		at += from
		if bytes.Contains(p[max(0, at-keyReach):at], []byte(secretsKey)) {
			return true
		}
		from = at + len(encryptedPrefix)
	}
}
