package host

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/musterdr/muster/providers/fault"
)

// Prefix is what the name of every provider's program begins with.
const Prefix = "muster-provider-"

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// folder is the plugin folder. Links that lead out of it are not followed.
type folder struct {
	path string
	root *os.Root
}

func openFolder(path string) (*folder, error) {
	const op = "open plugin folder"
	if !filepath.IsAbs(path) {
		return nil, fault.Newf(op, fault.Invalid, path, "the path must be absolute")
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fault.New(op, kindOf(err), path, plain(err))
	}
	if !info.IsDir() {
		return nil, fault.Newf(op, fault.Invalid, path, "it is not a folder")
	}
	if err := trusted(op, path, info); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fault.New(op, kindOf(err), path, plain(err))
	}
	return &folder{path: path, root: root}, nil
}

func (f *folder) close() error { return f.root.Close() }

// trusted refuses what another user could have changed.
func trusted(op, path string, info fs.FileInfo) error {
	if info.Mode().Perm()&0o002 != 0 {
		return fault.Newf(op, fault.Denied, path, "every user of this machine can change it: chmod o-w %s", path)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return fault.Newf(op, fault.Denied, path, "it belongs to user %d: it must be root's, or that of who runs muster", stat.Uid)
	}
	return nil
}

// names are the providers that the folder holds, sorted.
func (f *folder) names() ([]string, error) {
	entries, err := fs.ReadDir(f.root.FS(), ".")
	if err != nil {
		return nil, fault.New("read plugin folder", kindOf(err), f.path, plain(err))
	}
	var names []string
	for _, entry := range entries {
		if name, ok := strings.CutPrefix(entry.Name(), Prefix); ok && nameForm.MatchString(name) && !entry.IsDir() {
			names = append(names, name)
		}
	}
	return names, nil
}

// program is an opened executable file. What was hashed is what starts: the file stays open in between.
type program struct {
	name, path string
	digest     string // SHA-256, in hexadecimal
	file       *os.File
	stamp      stamp
}

// stamp changes with a file's content.
type stamp struct {
	device, inode uint64
	size          int64
	changed       syscall.Timespec
}

// open opens and hashes a program. Errors: Invalid (a name, not an executable file), NotFound, Denied.
func (f *folder) open(name string) (*program, error) {
	const op = "open provider"
	if !nameForm.MatchString(name) {
		return nil, fault.Newf(op, fault.Invalid, name, "a provider's name is made of lower case letters, digits and '-'")
	}
	path := filepath.Join(f.path, Prefix+name)
	// Without O_NONBLOCK a named pipe would hold us up.
	file, err := f.root.OpenFile(Prefix+name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, f.notOpened(op, name, path, err)
	}
	p := &program{name: name, path: path, file: file}
	if err := p.read(op); err != nil {
		file.Close()
		return nil, err
	}
	return p, nil
}

func (f *folder) notOpened(op, name, path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		names, _ := f.names()
		return fault.Newf(op, fault.NotFound, name, "there is no %s; the folder holds %s", path, listed(names))
	}
	if _, linkErr := os.Stat(path); linkErr == nil && !errors.Is(err, fs.ErrPermission) {
		return fault.Newf(op, fault.Denied, path, "it is a link that leads out of the plugin folder: put the program itself there")
	}
	return fault.New(op, kindOf(err), path, plain(err))
}

func listed(names []string) string {
	if len(names) == 0 {
		return "no provider"
	}
	return strings.Join(names, ", ")
}

func (p *program) read(op string) error {
	info, err := p.file.Stat()
	if err != nil {
		return fault.New(op, kindOf(err), p.path, plain(err))
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return fault.Newf(op, fault.Invalid, p.path, "it is not an executable file")
	}
	if err := trusted(op, p.path, info); err != nil {
		return err
	}
	p.stamp = stampOf(info)
	content := bufio.NewReader(p.file)
	if head, _ := content.Peek(2); string(head) == "#!" {
		return fault.Newf(op, fault.Invalid, p.path, "it is a script; a provider must be a program, since the pin of a script says nothing about what runs it")
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, content); err != nil {
		return fault.New(op, kindOf(err), p.path, plain(err))
	}
	p.digest = hex.EncodeToString(sum.Sum(nil))
	return p.unchanged(op)
}

func stampOf(info fs.FileInfo) stamp {
	s := info.Sys().(*syscall.Stat_t)
	return stamp{device: s.Dev, inode: s.Ino, size: s.Size, changed: s.Ctim}
}

// unchanged reports whether the file is still what it was when hashing began. Called again after the start,
// it leaves no moment in which other content could have been started than was hashed.
func (p *program) unchanged(op string) error {
	info, err := p.file.Stat()
	if err != nil {
		return fault.New(op, kindOf(err), p.path, plain(err))
	}
	if stampOf(info) != p.stamp {
		return fault.Newf(op, fault.Denied, p.path, "somebody changes the program at this moment")
	}
	return nil
}

func kindOf(err error) fault.Kind {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.NotFound
	case errors.Is(err, fs.ErrPermission):
		return fault.Denied
	default:
		return fault.Transient
	}
}

// plain leaves out the path, which the fault's subject names already.
func plain(err error) error {
	var inner *fs.PathError
	if errors.As(err, &inner) {
		return inner.Err
	}
	return err
}
