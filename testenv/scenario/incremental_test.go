package scenario

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/musterdr/muster/testenv"
	"github.com/musterdr/muster/testenv/ceph"
)

// TestOnePercent captures an RBD image of 4 GiB ten times. Of the second, which finds 1 % changed, it tells what the
// backend was asked for and what the repository has grown by. The third is deleted; the stock kopia command brings
// the tenth back, byte for byte.
func TestOnePercent(t *testing.T) {
	t.Parallel()
	testenv.Need(t)
	kopia := testenv.NeedKopia(t)
	must(t, ceph.Install(t.Context()))
	c := ceph.Need(t, ceph.Config{})
	s := storages(t, storageLine("fast", "ceph", settings(t, map[string]any{"configFile": c.ConfigFile, "pools": []string{ceph.Pool}})), plugins(t, "ceph"))
	must(t, s.Run(t.Context(), "pin", nil, "provider", "pin", "ceph", "--yes"))
	sparseFile(t, s.path("original"), 4*gibi, 256)
	_, err := c.Shell(t.Context(), "rbd import --no-progress "+s.path("original")+" rbd/big && rbd image-meta set rbd/big team books")
	must(t, err)

	const percent = 4 * gibi / 100
	for n := range 10 {
		switch n {
		case 0:
		case 1: // in 8 pieces
			overwrite(t, c, 1, percent/8, 8)
		default:
			overwrite(t, c, n, 1<<20, 1)
		}
		before := s.stored(t)
		s.plan(t, "capture-big", "capture", capturedFrom("fast"))
		read, grown := s.newest(t).ReadBytes, s.stored(t)-before
		if n != 1 {
			continue
		}
		t.Logf("of 4 GiB, %d bytes had changed; %d were read from the backend, and the repository grew by %d", int64(percent), read, grown)
		if read > percent*6/5 || read < percent*9/10 || grown > percent*13/10 { // whole objects of 4 MiB would be more
			t.Errorf("1 %% is %d bytes; %d were read from the backend, and the repository grew by %d", int64(percent), read, grown)
		}
	}

	must(t, s.Run(t.Context(), "delete", nil, "points", "delete", s.points(t)[7].ID, "--yes"))
	must(t, s.Run(t.Context(), "maintain", nil, "points", "maintain"))
	for _, point := range s.points(t) {
		must(t, s.Run(t.Context(), "verify", nil, "points", "verify", point.ID))
	}
	newest := s.newest(t)
	f, err := os.Open(s.stockRestore(t, kopia, newest.Path+"/image.raw"))
	must(t, err)
	defer f.Close()
	if got, want := digestOf(f), imageDigest(t, c, newest.Snapshot.ID); got != want {
		t.Errorf("kopia brings back a file with the digest %s; the tenth snapshot's is %s", got, want)
	}
}

// overwrite writes pieces of noise over the image, far from each other, and never twice at the same place.
func overwrite(t *testing.T, c *ceph.Cluster, n int, size int64, pieces int64) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "piece")
	must(t, os.WriteFile(file, piece(byte(100+n), int(size*pieces)), 0o600))
	script := "mnt=$(mktemp -d); rbd-fuse -c $CEPH_CONF -p rbd $mnt\n"
	for i := range pieces {
		at := 4*gibi/pieces*i + int64(n)*(64<<20)
		script += fmt.Sprintf("dd if=%s of=$mnt/big bs=1M iflag=skip_bytes,count_bytes skip=%d count=%d oflag=seek_bytes seek=%d conv=notrunc,fsync status=none\n", file, size*i, size, at)
	}
	_, err := c.Shell(t.Context(), script+"umount $mnt; rmdir $mnt")
	must(t, err)
}

// bigVolume is what the newest manifest says of the only volume.
type bigVolume struct {
	Path      string `json:"path"`
	ReadBytes int64  `json:"readBytes"`
	Snapshot  struct {
		ID string `json:"id"`
	} `json:"snapshot"`
}

func (s *Scenario) newest(t *testing.T) bigVolume {
	t.Helper()
	var manifest struct {
		Volumes []bigVolume `json:"volumes"`
	}
	must(t, s.query(t.Context(), &manifest, "points", "show", "latest", "--output", "json"))
	return manifest.Volumes[0]
}

// listedPoint is what points list tells.
type listedPoint struct {
	ID   string `json:"id"`
	Root string `json:"root"` // kopia's name of its tree
}

// points are all there are, the newest first.
func (s *Scenario) points(t *testing.T) (list []listedPoint) {
	t.Helper()
	must(t, s.query(t.Context(), &list, "points", "list", "--output", "json"))
	return list
}

// stored is the size of the repository's files.
func (s *Scenario) stored(t *testing.T) (size int64) {
	t.Helper()
	must(t, filepath.WalkDir(s.path("repository"), func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	}))
	return size
}

// stockRestore brings a file of the newest point back with the stock kopia command alone.
func (s *Scenario) stockRestore(t *testing.T, kopia, file string) string {
	t.Helper()
	raw, err := os.ReadFile(s.path("muster.key"))
	must(t, err)
	var key struct {
		Password string `json:"password"`
	}
	must(t, yaml.Unmarshal(raw, &key))
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "image.raw")
	run := func(args ...string) {
		command := exec.Command(kopia, append([]string{"--config-file", filepath.Join(dir, "config"), "--no-persist-credentials", "--log-dir", filepath.Join(dir, "log")}, args...)...)
		command.Env = append(os.Environ(), "KOPIA_PASSWORD="+key.Password, "KOPIA_CHECK_FOR_UPDATES=false", "HOME="+dir)
		if text, err := command.CombinedOutput(); err != nil {
			t.Fatalf("kopia %v: %v\n%s", args, err, text)
		}
	}
	run("repository", "connect", "filesystem", "--path", s.path("repository"), "--cache-directory", filepath.Join(dir, "cache"), "--readonly")
	run("restore", s.points(t)[0].Root+"/"+file, out)
	return out
}
