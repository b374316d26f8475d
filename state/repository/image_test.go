package repository

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand"
	"testing"

	"pgregory.net/rapid"

	"github.com/musterdr/muster/providers/fault"
)

// readImage reads an image by its chunks.
func readImage(ctx context.Context, r *Repository, image Image) ([]byte, error) {
	opened, err := r.OpenImage(ctx, "vol", image)
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	out := make([]byte, image.Object.Size)
	end := int64(0)
	err = opened.Each(func(s Stretch) error {
		if s.Offset != end {
			return fmt.Errorf("a stretch at %d after one that ended at %d", s.Offset, end)
		}
		end += s.Length
		copy(out[s.Offset:end], s.Data)
		return nil
	})
	if err == nil && end != image.Object.Size {
		err = fmt.Errorf("it ended at %d", end)
	}
	return out, err
}

// digestOf computes RuleChunks as the documentation has it.
func digestOf(content []byte) string {
	var lines bytes.Buffer
	for len(content) > 0 {
		n := min(len(content), 1<<20)
		sum := sha256.Sum256(content[:n])
		lines.WriteString(hex.EncodeToString(sum[:]) + "\n")
		content = content[n:]
	}
	sum := sha256.Sum256(lines.Bytes())
	return hex.EncodeToString(sum[:])
}

func checkImage(ctx context.Context, r *Repository, image Image, want []byte) error {
	if image.Object.Size != int64(len(want)) || image.Digest != digestOf(want) {
		return fmt.Errorf("the image has %d bytes with digest %s, want %d with %s", image.Object.Size, image.Digest, len(want), digestOf(want))
	}
	got, err := readImage(ctx, r, image)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("its chunks hold other bytes")
	}
	whole, err := r.Open(ctx, image.Object.ID)
	if err != nil {
		return err
	}
	defer whole.Close()
	if got, err = io.ReadAll(whole); err != nil || !bytes.Equal(got, want) {
		return fmt.Errorf("the whole file holds other bytes, %d of them: %w", len(got), err)
	}
	return nil
}

// TestImages writes at random and compares with a model in memory.
func TestImages(t *testing.T) {
	f := newFixture(t)
	sizes := rapid.OneOf(rapid.Int64Range(0, 3*ChunkBytes), rapid.Custom(func(t *rapid.T) int64 {
		return rapid.Int64Range(0, 9).Draw(t, "chunks") * ChunkBytes
	}))
	rapid.Check(t, func(t *rapid.T) {
		var model []byte
		var base *Image
		for range rapid.IntRange(1, 3).Draw(t, "captures") {
			size := sizes.Draw(t, "size")
			next := make([]byte, size)
			copy(next, model)
			w, err := f.NewImage(context.Background(), "vol", ImageConfig{Size: size, Base: base})
			if err != nil {
				t.Fatal(err)
			}
			offset := int64(0)
			for range rapid.IntRange(0, 5).Draw(t, "writes") {
				offset += rapid.OneOf(rapid.Int64Range(0, size-offset), rapid.Map(rapid.Int64Range(0, 2), func(n int64) int64 {
					return min((offset+ChunkBytes-1)/ChunkBytes*ChunkBytes+n*ChunkBytes, size) - offset
				})).Draw(t, "gap")
				length := rapid.OneOf(rapid.Int64Range(0, size-offset), rapid.Just(min(int64(ChunkBytes), size-offset))).Draw(t, "length")
				part := next[offset : offset+length]
				switch rapid.IntRange(0, 3).Draw(t, "what") {
				case 0:
					clear(part)
					err = w.Zero(offset, length)
				case 1:
					clear(part)
					err = w.Write(offset, part)
				case 2: // what is there already
					err = w.Write(offset, part)
				default:
					rand.New(rand.NewSource(rapid.Int64().Draw(t, "seed"))).Read(part)
					err = w.Write(offset, part)
				}
				if err != nil {
					t.Fatal(err)
				}
				offset += length
			}
			image, stats, err := w.Commit()
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Flush(context.Background()); err != nil { // a base must be durable
				t.Fatal(err)
			}
			if err := checkImage(context.Background(), f.Repository, image, next); err != nil {
				t.Fatal(err)
			}
			if n := stats.Written + stats.Unchanged + stats.Reused + stats.Zero; n != chunkCount(size) || stats.WrittenBytes+stats.ReusedBytes+stats.ZeroBytes != size {
				t.Fatalf("%d chunks and %+v", chunkCount(size), stats)
			}
			model, base = next, &image
		}
	})
}

func TestImageRefusesDisorder(t *testing.T) {
	f := newFixture(t)
	w, err := f.NewImage(t.Context(), "vol", ImageConfig{Size: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if err := w.Write(10, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"again":    w.Write(19, []byte{1}),
		"beyond":   w.Write(99, []byte{1, 2}),
		"negative": w.Zero(30, -1),
		"overflow": w.Zero(30, 1<<63-1),
	} {
		if !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
