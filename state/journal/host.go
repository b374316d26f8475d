package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/musterdr/muster/providers/fault"
)

// host is this process's part in the embedded etcd: it serves it, or waits to take over from the
// process that does. A file lock decides who serves; the kernel frees it when that process ends.
type host struct {
	directory string
	socket    string
	gone      context.Context // ends when the server gives up
	giveUp    context.CancelFunc
	dir       *os.File // keeps socket's path short: see socketPath

	mu     sync.Mutex
	failed error // the server gave up: its disk is full, or gone
	lock   *os.File
	etcd   *embed.Etcd
	cancel context.CancelFunc
	done   chan struct{}
}

const startLimit = 30 * time.Second

func openHost(ctx context.Context, config Config) (*host, error) {
	if err := os.MkdirAll(config.Directory, 0o700); err != nil {
		return nil, fileFault("open journal", config.Directory, err)
	}
	if err := os.Chmod(config.Directory, 0o700); err != nil {
		return nil, fileFault("open journal", config.Directory, err)
	}
	h := &host{directory: config.Directory, done: make(chan struct{})}
	h.gone, h.giveUp = context.WithCancel(context.Background())
	if err := h.socketPath(); err != nil {
		return nil, err
	}
	if err := h.serve(); err != nil {
		return nil, errors.Join(err, h.dir.Close())
	}
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	h.cancel = cancel
	go h.standBy(watching)
	return h, nil
}

// socketPath goes through /proc/self/fd: the path of a unix socket may have 107 bytes (unix(7)), and
// a state directory is often deeper.
func (h *host) socketPath() error {
	dir, err := os.Open(h.directory)
	if err != nil {
		return fileFault("open journal", h.directory, err)
	}
	h.dir = dir
	h.socket = filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), "etcd.sock")
	return nil
}

func (h *host) endpoint() string { return "unix://" + h.socket }

// serve starts etcd unless another process does.
func (h *host) serve() error {
	lock, err := os.OpenFile(filepath.Join(h.directory, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fileFault("open journal", h.directory, err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return lock.Close() // somebody serves
	}
	etcd, err := h.startEtcd()
	if err != nil {
		return errors.Join(err, lock.Close())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lock, h.etcd = lock, etcd
	return nil
}

func (h *host) startEtcd() (*embed.Etcd, error) {
	// A socket left by a killed process can't be bound again.
	if err := os.Remove(filepath.Join(h.directory, "etcd.sock")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fileFault("open journal", h.directory, err)
	}
	config := embed.NewConfig()
	config.Name = "muster"
	config.Dir = filepath.Join(h.directory, "etcd")
	config.ListenClientUrls = []url.URL{{Scheme: "unix", Path: h.socket}}
	config.AdvertiseClientUrls = []url.URL{{Scheme: "http", Host: "localhost:0"}}
	config.ListenPeerUrls = nil // one member: nobody to listen to
	config.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "localhost:0"}}
	config.InitialCluster = "muster=http://localhost:0"
	config.EnableGRPCGateway = false
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(zapcore.NewNopCore(), zap.WithFatalHook(lastWords{h}), zap.WithPanicHook(lastWords{h})))
	config.QuotaBackendBytes = 8 << 30
	config.AutoCompactionMode = embed.CompactorModeRevision
	config.AutoCompactionRetention = "10000"
	// One member elects itself: it needs no long time-outs.
	config.TickMs, config.ElectionMs = 20, 200
	return h.awaitEtcd(config)
}

// awaitEtcd starts the server in a goroutine of its own: when it gives up while it starts, that
// goroutine ends, and not its caller's.
func (h *host) awaitEtcd(config *embed.Config) (*embed.Etcd, error) {
	type started struct {
		etcd *embed.Etcd
		err  error
	}
	result := make(chan started, 1)
	go func() {
		etcd, err := embed.StartEtcd(config)
		if err == nil {
			select {
			case <-etcd.Server.ReadyNotify():
			case err = <-etcd.Err():
				etcd.Close()
			}
		}
		result <- started{etcd, err}
	}()
	limit := time.NewTimer(startLimit)
	defer limit.Stop()
	select {
	case s := <-result:
		if s.err != nil {
			return nil, fileFault("start journal", h.directory, s.err)
		}
		return s.etcd, nil
	case <-h.gone.Done():
		return nil, h.failure()
	case <-limit.C:
		return nil, fault.Newf("start journal", fault.Transient, h.directory, "the embedded etcd is not ready after %s", startLimit)
	}
}

// lastWords keeps the server from ending this whole process when it can't go on, which is what its
// logger does otherwise.
type lastWords struct{ host *host }

// OnWrite implements zapcore.CheckWriteHook: it is the end of the goroutine that logged.
func (l lastWords) OnWrite(entry *zapcore.CheckedEntry, fields []zapcore.Field) {
	cause := errors.New(entry.Message)
	for _, field := range fields {
		if err, ok := field.Interface.(error); ok {
			cause = fmt.Errorf("%s: %w", entry.Message, err)
		}
	}
	l.host.mu.Lock()
	if l.host.failed == nil {
		l.host.failed = fileFault("keep journal", l.host.directory, cause)
		l.host.giveUp()
	}
	l.host.mu.Unlock()
	runtime.Goexit()
}

func (h *host) failure() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failed
}

// standBy takes over when the serving process ends; clients reconnect by themselves.
func (h *host) standBy(ctx context.Context) {
	defer close(h.done)
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		h.mu.Lock()
		serving := h.etcd != nil
		h.mu.Unlock()
		if serving {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		_ = h.serve() // a failure shows in the client's next call, and the next tick tries again
	}
}

func (h *host) close() error {
	if h == nil {
		return nil
	}
	h.cancel()
	<-h.done
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.etcd != nil && h.failed == nil { // a server that gave up does not end in order: it ends with this process
		h.etcd.Close()
	}
	var err error
	if h.lock != nil {
		err = h.lock.Close()
	}
	return errors.Join(err, h.dir.Close())
}

func fileFault(op, path string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fault.Newf(op, fault.NoSpace, path, "%w: make room there, or choose another folder with --state-dir", err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fault.Newf(op, fault.Denied, path, "%w: choose a folder you may write to with --state-dir", err)
	default:
		return fault.New(op, fault.Internal, path, err)
	}
}
