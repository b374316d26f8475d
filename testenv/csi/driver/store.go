package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// thing is a volume or a snapshot: a file with a few words about it.
type thing struct {
	ID     string
	Name   string
	Size   int64
	Source string // the snapshot that a volume was made from, the volume of a snapshot
	Group  string // of a snapshot
	Taken  time.Time
}

// store keeps volumes and snapshots under a folder.
type store struct {
	dir string
	mu  sync.Mutex
}

func openStore(dir string) (*store, error) {
	for _, kind := range []string{"volumes", "snapshots"} {
		if err := os.MkdirAll(filepath.Join(dir, kind), 0o755); err != nil {
			return nil, err
		}
	}
	return &store{dir: dir}, nil
}

func idOf(prefix, name string) string {
	sum := sha256.Sum256([]byte(name))
	return prefix + hex.EncodeToString(sum[:8])
}

func (s *store) image(kind, id string) string { return filepath.Join(s.dir, kind, id+".img") }

func (s *store) get(kind, id string) (thing, error) {
	var t thing
	raw, err := os.ReadFile(filepath.Join(s.dir, kind, filepath.Base(id)+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return t, status.Errorf(codes.NotFound, "there is no %s in %s", id, kind)
	}
	if err != nil {
		return t, err
	}
	return t, json.Unmarshal(raw, &t)
}

// put writes the words after the file: what has words is whole.
func (s *store) put(kind string, t thing) error {
	raw, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir, kind, t.ID+".json"), raw, 0o600)
}

func (s *store) list(kind string) ([]thing, error) {
	paths, err := filepath.Glob(filepath.Join(s.dir, kind, "*.json"))
	if err != nil {
		return nil, err
	}
	var out []thing
	for _, path := range paths {
		t, err := s.get(kind, strings.TrimSuffix(filepath.Base(path), ".json"))
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

func (s *store) remove(kind, id string) error {
	id = filepath.Base(id)
	return errors.Join(os.RemoveAll(filepath.Join(s.dir, kind, id+".json")), os.RemoveAll(s.image(kind, id)))
}

const unit = 1 << 20

// createVolume makes an empty volume, or one with a snapshot's content.
func (s *store) createVolume(name string, size int64, snapshot string) (thing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size = max((size+unit-1)/unit*unit, unit)
	id := idOf("vol-", name)
	if t, err := s.get("volumes", id); err == nil {
		if t.Size < size || t.Source != snapshot {
			return t, status.Errorf(codes.AlreadyExists, "volume %s is another one", name)
		}
		return t, nil
	}
	if size > 1<<40 {
		return thing{}, status.Errorf(codes.ResourceExhausted, "%d bytes are more than there is", size)
	}
	image := s.image("volumes", id)
	if snapshot != "" {
		source, err := s.get("snapshots", snapshot)
		if err != nil {
			return thing{}, err
		}
		if size < source.Size {
			return thing{}, status.Errorf(codes.OutOfRange, "the snapshot has %d bytes", source.Size)
		}
		if err := command("cp", "--sparse=always", s.image("snapshots", snapshot), image); err != nil {
			return thing{}, err
		}
	}
	if err := command("truncate", "-s", fmt.Sprint(size), image); err != nil {
		return thing{}, err
	}
	t := thing{ID: id, Name: name, Size: size, Source: snapshot}
	return t, s.put("volumes", t)
}

func (s *store) deleteVolume(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if devices := loops(s.image("volumes", filepath.Base(id))); len(devices) > 0 {
		return status.Errorf(codes.FailedPrecondition, "volume %s is in use: %v", id, devices)
	}
	return s.remove("volumes", id)
}

// createSnapshots copies volumes as they are at one instant; writers go on.
func (s *store) createSnapshots(names, volumes []string, group string) ([]thing, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := time.Now()
	var out, fresh []thing
	for i, name := range names {
		id := idOf("snap-", name)
		if t, err := s.get("snapshots", id); err == nil {
			if t.Source != volumes[i] {
				return nil, status.Errorf(codes.AlreadyExists, "snapshot %s is of another volume", name)
			}
			out = append(out, t)
			continue
		}
		volume, err := s.get("volumes", volumes[i])
		if err != nil {
			return nil, err
		}
		t := thing{ID: id, Name: name, Size: volume.Size, Source: volume.ID, Group: group, Taken: taken}
		fresh = append(fresh, t)
		out = append(out, t)
	}
	if err := s.copyAtOnce(fresh); err != nil {
		return nil, err
	}
	for _, t := range fresh {
		if err := s.put("snapshots", t); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// copyAtOnce copies volumes that are written to. When all are equal to their copies after all were copied, there
// was an instant at which all were what the copies are.
func (s *store) copyAtOnce(snapshots []thing) error {
	for range 100 {
		for _, t := range snapshots {
			if err := s.flushed(t.Source); err != nil {
				return err
			}
			if err := command("cp", "--sparse=always", s.image("volumes", t.Source), s.image("snapshots", t.ID)); err != nil {
				return err
			}
		}
		same := true
		for _, t := range snapshots {
			if err := s.flushed(t.Source); err != nil {
				return err
			}
			same = same && exec.Command("cmp", "-s", s.image("volumes", t.Source), s.image("snapshots", t.ID)).Run() == nil
		}
		if same {
			return nil
		}
	}
	return status.Error(codes.Aborted, "the volumes are written to without a pause")
}

func (s *store) flushed(volume string) error {
	for _, device := range loops(s.image("volumes", volume)) {
		if err := flush(device); err != nil {
			return err
		}
	}
	return nil
}

// flush writes what the kernel still holds of a device: a filesystem's pages first.
func flush(device string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); fields[0] == device {
			if err := command("sync", "-f", fields[1]); err != nil {
				return err
			}
		}
	}
	return command("blockdev", "--flushbufs", device)
}

// loops are the loop devices over a file.
func loops(path string) []string {
	out, err := exec.Command("losetup", "--noheadings", "--output", "NAME", "--associated", path).Output()
	if err != nil {
		return nil
	}
	return strings.Fields(string(out))
}

func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return status.Errorf(codes.Internal, "%s %v: %v: %s", name, args, err, out)
	}
	return nil
}

// extent is a stretch of a file.
type extent struct{ offset, length int64 }

// allocated are the stretches of a file that hold data.
func allocated(path string) ([]extent, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []extent
	end := int64(0)
	for {
		start, err := f.Seek(end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if end, err = f.Seek(start, unix.SEEK_HOLE); err != nil {
			return nil, err
		}
		out = append(out, extent{start, end - start})
	}
}

// changed compares two files block by block.
func changed(base, target string) ([]extent, error) {
	const block = 64 << 10
	a, err := os.Open(base)
	if err != nil {
		return nil, err
	}
	defer a.Close()
	b, err := os.Open(target)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	var out []extent
	left, right := make([]byte, block), make([]byte, block)
	for offset := int64(0); ; offset += block {
		n, err := io.ReadFull(a, left)
		m, otherErr := io.ReadFull(b, right)
		if m > 0 && string(left[:n]) != string(right[:m]) {
			out = append(out, extent{offset, int64(m)})
		}
		if err != nil && otherErr != nil {
			return out, nil
		}
	}
}
