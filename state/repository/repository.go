package repository

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/kopia/kopia/repo"
	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/blob/filesystem"
	"github.com/kopia/kopia/repo/compression"
	"github.com/kopia/kopia/repo/content"
	"github.com/kopia/kopia/repo/format"
	"github.com/kopia/kopia/repo/object"

	"github.com/musterdr/muster/plans"
	"github.com/musterdr/muster/providers/fault"
)

// ID names an object by its content.
type ID string

// Object is stored content. SHA256 is empty where the object was concatenated from others.
type Object struct {
	ID     ID     `json:"id"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256,omitempty"`
}

// Config tells where a repository is and how to get in.
type Config struct {
	URL string // file:///path or s3://bucket/prefix
	S3  plans.S3
	Key *Key
	// CacheDir is a folder for kopia's connection file and caches. No secret is written there.
	CacheDir string
	Now      func() time.Time
}

// Repository is an open repository. It is safe for concurrent use.
type Repository struct {
	config Config
	repo   repo.DirectRepository
	room   *room
	// uploaded counts the bytes of blobs that were written.
	uploaded atomic.Int64

	mu     sync.Mutex // guards writer, which is made when something is first written
	writer repo.DirectRepositoryWriter
}

const (
	// splitter cuts content where the content says so, so that equal stretches of different streams
	// become equal chunks. Chunks of 1 MiB on average find more of them in nearly equal root
	// filesystems than kopia's default of 4 MiB.
	splitter   = "DYNAMIC-1M-BUZHASH"
	compressor = compression.Name("zstd-fastest")
	// parallelUploads is how many chunks of one stream are compressed and stored at once.
	parallelUploads = 4
	cacheBytes      = 512 << 20
)

// Create makes a new, empty repository. It returns fault.Exists when there is one.
func Create(ctx context.Context, config Config) error {
	storage, err := config.storage(ctx, true)
	if err != nil {
		return err
	}
	defer storage.Close(ctx) // nothing is buffered
	err = repo.Initialize(ctx, storage, &repo.NewRepositoryOptions{
		BlockFormat:  format.ContentFormat{Hash: "BLAKE2B-256-128", Encryption: "AES256-GCM-HMAC-SHA256"},
		ObjectFormat: format.ObjectFormat{Splitter: splitter},
	}, config.Key.password)
	if errors.Is(err, format.ErrAlreadyInitialized) {
		return fault.Newf("create repository", fault.Exists, config.URL, "there is a repository already; muster can use it as it is")
	}
	return config.fail("create repository", err)
}

// Open opens a repository. It returns fault.NotFound when there is none, fault.Denied when the key
// is not its key, and fault.Unsupported when its format is newer than this program.
func Open(ctx context.Context, config Config) (*Repository, error) {
	storage, err := config.storage(ctx, false)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(config.CacheDir, 0o700); err != nil {
		return nil, config.fail("open repository", err)
	}
	configFile := filepath.Join(config.CacheDir, config.cacheName()+".config")
	err = repo.Connect(ctx, configFile, storage, config.Key.password, &repo.ConnectOptions{
		ClientOptions:  repo.ClientOptions{Hostname: "muster", Username: "muster"},
		CachingOptions: config.caching(),
	})
	if err := errors.Join(err, storage.Close(ctx)); err != nil {
		return nil, config.fail("open repository", err)
	}
	opened, err := repo.Open(ctx, configFile, config.Key.password, &repo.Options{TimeNowFunc: config.Now})
	if err != nil {
		return nil, config.fail("open repository", err)
	}
	direct, ok := opened.(repo.DirectRepository)
	if !ok {
		return nil, errors.Join(fault.New("open repository", fault.Internal, config.URL, nil), opened.Close(ctx))
	}
	return &Repository{config: config, repo: direct, room: roomOf(config.URL)}, nil
}

// caching bounds kopia's caches. A repository in a folder has none: they would copy what is on a disk
// already, every content that is read. Its index is held in memory then, some 50 MB for a TiB of content.
func (c Config) caching() content.CachingOptions {
	if strings.HasPrefix(c.URL, "file:") {
		return content.CachingOptions{}
	}
	return content.CachingOptions{
		CacheDirectory:        filepath.Join(c.CacheDir, c.cacheName()),
		ContentCacheSizeBytes: cacheBytes, MetadataCacheSizeBytes: cacheBytes,
	}
}

// cacheName tells repositories apart: two servers can have buckets of the same name.
func (c Config) cacheName() string {
	sum := sha256.Sum256([]byte(c.S3.Endpoint + " " + c.URL))
	return hex.EncodeToString(sum[:8])
}

// storage opens the blob store. Credentials of S3 servers stay out of it, so that kopia's connection
// file holds none: kopia reads them from the environment or the instance's role at each start.
func (c Config) storage(ctx context.Context, create bool) (blob.Storage, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fault.Newf("open repository", fault.Invalid, "", "the URL cannot be read")
	}
	switch u.Scheme {
	case "file":
		if _, err := os.Stat(u.Path); err != nil && !create {
			return nil, fault.Newf("open repository", fault.NotFound, c.URL, "there is no such folder")
		}
		storage, err := filesystem.New(ctx, &filesystem.Options{Path: u.Path}, create)
		return storage, c.fail("open repository", err)
	case "s3":
		return c.s3(ctx, u)
	default:
		return nil, fault.Newf("open repository", fault.Invalid, c.URL, "want file:///path or s3://bucket/prefix")
	}
}

// Close lets go of the repository. What was put and not flushed is lost.
func (r *Repository) Close(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	if r.writer != nil {
		err = r.writer.Close(ctx)
	}
	return errors.Join(err, r.repo.Close(ctx))
}

// session is the one write session of this repository.
func (r *Repository) session(ctx context.Context) (repo.DirectRepositoryWriter, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writer != nil {
		return r.writer, nil
	}
	_, writer, err := r.repo.NewDirectWriter(context.WithoutCancel(ctx), repo.WriteSessionOptions{
		Purpose: "muster", OnUpload: func(bytes int64) { r.uploaded.Add(bytes) },
	})
	if err != nil {
		return nil, r.config.fail("write repository", err)
	}
	r.writer = writer
	return writer, nil
}

// Uploaded is how many bytes this Repository has written so far: compressed, and without what was stored
// already. What was put and not flushed may not count yet.
func (r *Repository) Uploaded() int64 { return r.uploaded.Load() }

// Put stores what it reads. The name is for kopia's logs. What it returns is durable after Flush.
func (r *Repository) Put(ctx context.Context, name string, source io.Reader) (Object, error) {
	w, err := r.Create(ctx, name)
	if err != nil {
		return Object{}, err
	}
	defer w.Abort()
	if _, err := io.Copy(w, source); err != nil {
		return Object{}, r.config.fail("store "+name, err)
	}
	return w.Commit()
}

// Writer stores a stream.
type Writer struct {
	config Config
	room   *room
	name   string
	writer object.Writer
	sum    hash.Hash
	size   int64
	closed bool
}

// Create begins a stream. One of Commit and Abort must be called.
func (r *Repository) Create(ctx context.Context, name string) (*Writer, error) {
	session, err := r.session(ctx)
	if err != nil {
		return nil, err
	}
	writer := session.NewObjectWriter(ctx, object.WriterOptions{Description: name, Compressor: compressor, AsyncWrites: parallelUploads})
	return &Writer{config: r.config, room: r.room, name: name, writer: writer, sum: sha256.New()}, nil
}

// restart gives up what was written and begins anew.
func (w *Writer) restart(ctx context.Context, r *Repository) error {
	again, err := r.Create(ctx, w.name)
	if err != nil {
		return err
	}
	w.Abort()
	*w = *again
	return nil
}

func (w *Writer) Write(p []byte) (int, error) {
	if err := w.room.take(len(p)); err != nil {
		return 0, err
	}
	n, err := w.writer.Write(p)
	w.sum.Write(p[:n])
	w.size += int64(n)
	return n, w.config.fail("store "+w.name, err)
}

// Commit ends the stream and names what it wrote.
func (w *Writer) Commit() (Object, error) {
	id, err := w.writer.Result()
	w.Abort()
	if err != nil {
		return Object{}, w.config.fail("store "+w.name, err)
	}
	return Object{ID: ID(id.String()), Size: w.size, SHA256: hex.EncodeToString(w.sum.Sum(nil))}, nil
}

// Abort gives up what was written. After Commit it does nothing.
func (w *Writer) Abort() {
	if !w.closed {
		w.closed = true
		_ = w.writer.Close() // it only frees memory
	}
}

// Concatenate makes one object of several without reading them.
func (r *Repository) Concatenate(ctx context.Context, parts []Object) (Object, error) {
	session, err := r.session(ctx)
	if err != nil {
		return Object{}, err
	}
	out := Object{}
	ids := make([]object.ID, 0, len(parts))
	for _, part := range parts {
		id, err := object.ParseID(string(part.ID))
		if err != nil {
			return Object{}, fault.New("concatenate objects", fault.Invalid, string(part.ID), err)
		}
		ids = append(ids, id)
		out.Size += part.Size
	}
	id, err := session.ConcatenateObjects(ctx, ids, repo.ConcatenateOptions{Compressor: compressor})
	if err != nil {
		return Object{}, r.config.fail("concatenate objects", err)
	}
	out.ID = ID(id.String())
	return out, nil
}

// Flush makes everything put before durable. A step flushes before it returns its receipt.
func (r *Repository) Flush(ctx context.Context) error {
	session, err := r.session(ctx)
	if err != nil {
		return err
	}
	return r.config.fail("write repository", session.Flush(ctx))
}

// fail gives kopia's errors their kind.
func (c Config) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	text := err.Error()
	switch {
	case errors.Is(err, format.ErrInvalidPassword):
		return fault.Newf(op, fault.Denied, c.URL, "this is not the repository's key")
	case errors.Is(err, repo.ErrRepositoryNotInitialized):
		return fault.Newf(op, fault.NotFound, c.URL, "there is no repository here: muster init makes one")
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.Newf(op, fault.NoSpace, c.URL, "%w: make room and resume", err)
	case strings.Contains(text, "can't handle repositories created using version"), strings.Contains(text, "version of Kopia does not support feature"):
		return fault.Newf(op, fault.Unsupported, c.URL, "its format is newer than this muster: %w", err)
	case errors.Is(err, content.ErrContentNotFound), errors.Is(err, object.ErrObjectNotFound), errors.Is(err, blob.ErrBlobNotFound), isDamage(text):
		return fault.Newf(op, fault.Corrupt, c.URL, "content is damaged or missing: %w", err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fault.New(op, fault.Transient, c.URL, err)
	case errors.Is(err, os.ErrPermission), errors.Is(err, blob.ErrInvalidCredentials), refusedByS3(err):
		return fault.New(op, fault.Denied, c.URL, err)
	default:
		return fault.New(op, fault.Transient, c.URL, err)
	}
}

// isDamage recognises the texts of kopia's errors about content that does not match its tag; they
// have no types.
func isDamage(text string) bool {
	for _, part := range []string{
		"unable to decrypt", "cipher: message authentication failed", "invalid checksum", "malformed", "corrupt", "unable to decompress",
		"invalid blob offset or length", "invalid length", "unexpected EOF", "invalid format blob", "invalid header", "can't parse",
	} {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}
