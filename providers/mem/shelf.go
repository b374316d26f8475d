package mem

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// shelf is a folder of folders. What is on it and nothing refers to is removed by sweep, unless it is a draft
// whose maker lives: a draft's lock ends with its process.
type shelf struct{ dir string }

const lockSuffix = ".lock"

// draft is something on a shelf that is not referred to yet.
type draft struct {
	id, path string
	lock     *os.File
}

// draft starts something new. The caller holds the lock of the state, so that no sweep sees it half made.
func (s *shelf) draft() (*draft, error) {
	id := random()
	path := filepath.Join(s.dir, id)
	lock, err := os.OpenFile(path+lockSuffix, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, broken("make", path, err)
	}
	d := &draft{id: id, path: path, lock: lock}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		d.discard()
		return nil, broken("lock", path, err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		d.discard()
		return nil, broken("make", path, err)
	}
	return d, nil
}

// keep ends the draft; something refers to it now.
func (d *draft) keep() {
	_ = os.Remove(d.path + lockSuffix)
	_ = d.lock.Close()
}

// discard removes the draft.
func (d *draft) discard() {
	_ = os.RemoveAll(d.path)
	d.keep()
}

// sweep removes what is not used. The caller holds the lock of the state, so that nothing becomes used
// meanwhile.
func (s *shelf) sweep(used map[string]bool) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return broken("sweep", s.dir, err)
	}
	for _, entry := range entries {
		id := strings.TrimSuffix(entry.Name(), lockSuffix)
		path := filepath.Join(s.dir, id)
		if used[id] {
			_ = os.Remove(path + lockSuffix) // its maker died, or has just made it
			continue
		}
		if s.drafted(id) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return broken("sweep", path, err)
		}
		_ = os.Remove(path + lockSuffix)
	}
	return nil
}

// drafted reports whether somebody is making it.
func (s *shelf) drafted(id string) bool {
	lock, err := os.OpenFile(filepath.Join(s.dir, id+lockSuffix), os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer lock.Close()
	return errors.Is(syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}
