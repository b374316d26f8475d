package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/testenv"
)

// sealImage makes a recovery point of one volume.
func (f fixture) sealImage(t *testing.T, id string, image Image) (Point, VolumeLayer) {
	t.Helper()
	layer := VolumeLayer{ID: "rbd/pvc-1", Path: VolumePath("ceph", "rbd/pvc-1"), Content: "blocks", Size: image.Object.Size}
	layer.Image = image.Contents(layer.Path)
	return f.sealVolume(t, id, layer, image.Tree()), layer
}

func (f fixture) sealVolume(t *testing.T, id string, layer VolumeLayer, files []File) Point {
	t.Helper()
	tree, err := f.PutTree(t.Context(), files)
	must(t, err)
	point, err := f.Seal(t.Context(), Manifest{ID: id, Cluster: "prod", Volumes: []VolumeLayer{layer}, Instant: time.Unix(1000, 0).UTC(), Created: time.Unix(1001, 0).UTC()},
		[]Subtree{{Path: layer.Path, Tree: tree}})
	must(t, err)
	return point
}

// stockRestore brings a file of a point back with the stock kopia command.
func (f fixture) stockRestore(t *testing.T, kopia string, point Point, path string) []byte {
	t.Helper()
	dir := t.TempDir()
	run := func(args ...string) {
		command := exec.Command(kopia, append([]string{"--config-file", filepath.Join(dir, "config"), "--no-persist-credentials", "--log-dir", filepath.Join(dir, "log")}, args...)...)
		command.Env = append(os.Environ(), "KOPIA_PASSWORD="+f.config.Key.password, "KOPIA_CHECK_FOR_UPDATES=false", "HOME="+dir)
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("kopia %v: %v\n%s", args, err, out)
		}
	}
	run("repository", "connect", "filesystem", "--path", f.dir, "--cache-directory", filepath.Join(dir, "cache"), "--readonly")
	run("restore", string(point.Root)+"/"+path, filepath.Join(dir, "out"))
	content, err := os.ReadFile(filepath.Join(dir, "out"))
	must(t, err)
	return content
}

// TestTenIncrementals takes ten, loses the point of the third, and has the tenth brought back by the
// stock kopia command.
func TestTenIncrementals(t *testing.T) {
	kopia := testenv.NeedKopia(t)
	f := newFixture(t)
	const size = 24*ChunkBytes + 512
	model := randomBytes(t, size)
	clear(model[4*ChunkBytes : 14*ChunkBytes])
	var points []Point
	var layers []VolumeLayer
	var models [][]byte
	var base *Image
	for n := range 10 {
		w, err := f.NewImage(t.Context(), "rbd/pvc-1", ImageConfig{Size: size, Base: base})
		must(t, err)
		if n == 0 {
			must(t, w.Write(0, model))
		} else {
			at := int64(n)*2*ChunkBytes + int64(n)*4096
			part := randomBytes(t, 8192)
			copy(model[at:], part)
			must(t, w.Write(at, part))
		}
		before := f.Uploaded()
		image, stats, err := w.Commit()
		must(t, err)
		if n > 0 && (stats.Written != 1 || stats.WrittenBytes != ChunkBytes || stats.Reused+stats.Zero != 24) {
			t.Errorf("increment %d: %+v", n, stats)
		}
		point, layer := f.sealImage(t, fmt.Sprintf("prod-%02d", n), image)
		if added := f.Uploaded() - before; n > 0 && added > 2*ChunkBytes {
			t.Errorf("increment %d added %d bytes", n, added)
		}
		points, layers, models = append(points, point), append(layers, layer), append(models, bytes.Clone(model))
		again, err := f.Image(t.Context(), point, layer)
		if err != nil || again != image {
			t.Fatalf("found %+v in the point, want %+v: %v", again, image, err)
		}
		base = &again
	}
	must(t, f.Delete(t.Context(), points[2]))
	must(t, f.Maintain(t.Context()))
	r := reopen(t, f.config)
	for n, point := range points {
		if n == 2 {
			continue
		}
		report, err := r.Verify(t.Context(), point, func(int64, int64) {})
		if err != nil || report.Compared != 2 {
			t.Errorf("point %d: %+v, %v", n, report, err)
		}
		image, err := r.Image(t.Context(), point, layers[n])
		must(t, err)
		if err := checkImage(t.Context(), r, image, models[n]); err != nil {
			t.Errorf("point %d: %v", n, err)
		}
	}
	if got := f.stockRestore(t, kopia, points[9], layers[9].Path+"/"+imageFile); !bytes.Equal(got, models[9]) {
		t.Fatal("the stock command brought other bytes back")
	}
	manifest, err := r.Manifest(t.Context(), points[9])
	if err != nil || manifest.Version != 2 {
		t.Fatalf("manifest of version %d, %v", manifest.Version, err)
	}
}

// TestArchivePoint has an archive brought back by the stock kopia command and verified in its point.
func TestArchivePoint(t *testing.T) {
	kopia := testenv.NeedKopia(t)
	root := richTree(t)
	want, err := describe(root)
	must(t, err)
	f := newFixture(t)
	archive, _ := f.archive(t, ArchiveConfig{Root: root})
	layer := VolumeLayer{ID: "gv0", Path: VolumePath("gluster", "gv0"), Content: "files"}
	layer.Files = archive.Contents(layer.Path)
	point := f.sealVolume(t, "prod-1", layer, archive.Tree())
	report, err := f.Verify(t.Context(), point, func(int64, int64) {})
	if err != nil || report.Compared != 2 {
		t.Fatalf("%+v, %v", report, err)
	}
	found, err := f.Archive(t.Context(), point, layer)
	if err != nil || found != archive {
		t.Fatalf("%+v, %v", found, err)
	}
	target := t.TempDir()
	command := exec.Command("tar", "-x", "--warning=no-timestamp", "--numeric-owner", "-p", "--xattrs", "--xattrs-include=*", "-C", target)
	command.Stdin = bytes.NewReader(f.stockRestore(t, kopia, point, layer.Path+"/"+filesFile))
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	got, err := describe(target)
	must(t, err)
	if d := difference(got, want); d != "" {
		t.Fatal(d)
	}
}

// TestImageDamage harms a base, and an image.
func TestImageDamage(t *testing.T) {
	f := newFixture(t)
	const size = 6 * ChunkBytes
	content := randomBytes(t, size)
	w, err := f.NewImage(t.Context(), "vol", ImageConfig{Size: size})
	must(t, err)
	must(t, w.Write(0, content))
	image, _, err := w.Commit()
	must(t, err)
	point, _ := f.sealImage(t, "prod-1", image)
	pack := packs(t, f.dir)[0]
	whole, err := os.ReadFile(pack)
	must(t, err)
	t.Run("flipped bit", func(t *testing.T) {
		harmed := bytes.Clone(whole)
		harmed[len(harmed)/2] ^= 1
		must(t, os.WriteFile(pack, harmed, 0o600))
		r := reopen(t, f.config)
		_, err := readImage(t.Context(), r, image)
		if !fault.Is(err, fault.Corrupt) || !strings.Contains(err.Error(), "chunk ") {
			t.Errorf("read: %v", err)
		}
		if _, err := r.Verify(t.Context(), point, func(int64, int64) {}); !fault.Is(err, fault.Corrupt) || !strings.Contains(err.Error(), "chunk ") {
			t.Errorf("verify: %v", err)
		}
		w, err := r.NewImage(t.Context(), "vol", ImageConfig{Size: size, Base: &image}) // its place is there
		must(t, err)
		defer w.Abort()
		for at := int64(0); at < size && err == nil; at += ChunkBytes {
			err = w.Write(at, []byte{1, 2, 3}) // the rest of each chunk is the base's
		}
		if err == nil {
			_, _, err = w.Commit()
		}
		if !fault.Is(err, fault.Corrupt) {
			t.Errorf("filled up from the base: %v", err)
		}
	})
	for name, harm := range map[string]func() error{
		"cut off": func() error { return os.WriteFile(pack, whole[:len(whole)/2], 0o600) },
		"missing": func() error { return os.Remove(pack) },
	} {
		t.Run(name, func(t *testing.T) {
			must(t, harm())
			if _, err := reopen(t, f.config).NewImage(t.Context(), "vol", ImageConfig{Size: size, Base: &image}); !fault.Is(err, fault.Corrupt) {
				t.Error(err)
			}
		})
	}
	t.Run("other list", func(t *testing.T) {
		must(t, os.WriteFile(pack, whole, 0o600))
		other := image
		other.Digest = strings.Repeat("0", 64)
		if _, err := reopen(t, f.config).OpenImage(t.Context(), "vol", other); !fault.Is(err, fault.Corrupt) {
			t.Error(err)
		}
		other = image
		other.Chunks.ID = "00112233445566778899aabbccddeeff"
		if _, err := reopen(t, f.config).NewImage(t.Context(), "vol", ImageConfig{Size: size, Base: &other}); !fault.Is(err, fault.Corrupt) {
			t.Error(err)
		}
	})
}

// TestSparseImage stores 100 GiB with little in it, and looks at what that takes.
func TestSparseImage(t *testing.T) {
	f := newFixture(t)
	const size = 100 << 30
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	random := rand.New(rand.NewSource(1))
	w, err := f.NewImage(t.Context(), "vol", ImageConfig{Size: size})
	must(t, err)
	data := make([]byte, 2<<20)
	offsets := map[int64]byte{}
	for at := int64(0); at < size; at += 10 << 30 {
		random.Read(data)
		data[0] = byte(at>>30) + 1
		offsets[at] = data[0]
		must(t, w.Write(at, data))
	}
	image, stats, err := w.Commit()
	must(t, err)
	runtime.ReadMemStats(&after)
	if stats.Written != 20 || stats.Zero != size/ChunkBytes-20 {
		t.Errorf("%+v", stats)
	}
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 1<<30 {
		t.Errorf("%d MiB were allocated in all", allocated>>20)
	}
	if held := int64(after.HeapInuse) - int64(before.HeapInuse); held > 100<<20 {
		t.Errorf("%d MiB are held", held>>20)
	}
	must(t, f.Flush(t.Context()))
	if f.Uploaded() > 24<<20 {
		t.Errorf("%d bytes were added", f.Uploaded())
	}
	if image.Chunks.Size > 4096 {
		t.Errorf("the list of chunks has %d bytes", image.Chunks.Size)
	}
	opened, err := f.OpenImage(t.Context(), "vol", image)
	must(t, err)
	defer opened.Close()
	stretches := 0
	must(t, opened.Each(func(s Stretch) error {
		stretches++
		if first, ok := offsets[s.Offset]; ok && (s.Data == nil || s.Data[0] != first) {
			return errors.New("other data")
		}
		return nil
	}))
	if stretches != 30 {
		t.Errorf("%d stretches", stretches)
	}
	whole, err := f.Open(t.Context(), image.Object.ID)
	must(t, err)
	defer whole.Close()
	one := make([]byte, 1)
	for at, want := range offsets {
		if _, err := whole.ReadAt(one, at); err != nil || one[0] != want {
			t.Errorf("at %d: %d, %v", at, one[0], err)
		}
	}
}

// FuzzChunkList reads a list that anybody may have written.
func FuzzChunkList(f *testing.F) {
	sum := strings.Repeat("0", 64)
	f.Add([]byte("muster-chunks 1 3145728 1048576\n" + sum + " 00112233445566778899aabbccddeeff\nzero 2\n"))
	f.Add([]byte("muster-chunks 1 9223372036854775807 1048576\nzero 8796093022208\n"))
	f.Add([]byte("muster-chunks 2 0 1048576\n"))
	f.Add([]byte("muster-chunks 1 1 1048576\n" + sum + " I00112233445566778899aabbccddeeff\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		list, err := newListReader(bytes.NewReader(content))
		total := int64(0)
		for err == nil {
			var n int64
			_, n, err = list.next(1 << 10)
			if err == nil {
				total += n
			}
			if total > 1<<20 {
				return // it says that it is large, and may
			}
		}
		if errors.Is(err, io.EOF) && total != chunkCount(list.size) {
			t.Fatalf("%d chunks of an image of %d bytes", total, list.size)
		}
		if !errors.Is(err, io.EOF) && fault.KindOf(err) != fault.Corrupt && fault.KindOf(err) != fault.Unsupported {
			t.Fatal(err)
		}
	})
}

// TestListDamage has every single line of a list left out, doubled or cut.
func TestListDamage(t *testing.T) {
	sum := strings.Repeat("0", 64)
	id := "00112233445566778899aabbccddeeff"
	good := []string{"muster-chunks 1 4194304 1048576", sum + " " + id, "zero 2", sum + " " + id}
	read := func(lines []string) error {
		list, err := newListReader(strings.NewReader(strings.Join(lines, "\n") + "\n"))
		for err == nil {
			_, _, err = list.next(1)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	if err := read(good); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for name, lines := range map[string][]string{
			"without": append(append([]string{}, good[:i]...), good[i+1:]...),
			"doubled": append(append(append([]string{}, good[:i]...), good[i], good[i]), good[i+1:]...),
			"cut":     append(append(append([]string{}, good[:i]...), good[i][:len(good[i])-1]), good[i+1:]...),
		} {
			if err := read(lines); !fault.Is(err, fault.Corrupt) {
				// An object ID may be of any length; the image's digest and the ID's absence tell.
				if name == "cut" && i%2 == 1 {
					continue
				}
				t.Errorf("line %d %s: %v", i, name, err)
			}
		}
	}
}

// BenchmarkImage writes an image in which half of the chunks can be compressed.
func BenchmarkImage(b *testing.B) {
	key, err := NewKey()
	must(b, err)
	block := make([]byte, 4<<20)
	random := rand.New(rand.NewSource(1))
	b.SetBytes(256 << 20)
	for b.Loop() {
		b.StopTimer()
		config := Config{URL: "file://" + b.TempDir(), Key: key, CacheDir: b.TempDir(), Now: time.Now}
		must(b, Create(b.Context(), config))
		r, err := Open(b.Context(), config)
		must(b, err)
		b.StartTimer()
		w, err := r.NewImage(b.Context(), "vol", ImageConfig{Size: 256 << 20})
		must(b, err)
		for at := int64(0); at < 256<<20; at += int64(len(block)) {
			b.StopTimer()
			random.Read(block)
			copy(block[len(block)/2:], bytes.Repeat([]byte("some text that repeats itself, as text does; "), len(block)/100))
			b.StartTimer()
			must(b, w.Write(at, block))
		}
		_, _, err = w.Commit()
		must(b, err)
		must(b, r.Flush(b.Context()))
		must(b, r.Close(context.Background()))
	}
}
