package csi

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"pgregory.net/rapid"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// sent is what readScript sends of a device.
func sent(device []byte, spans []span) []byte {
	padded := append(bytes.Clone(device), make([]byte, readUnit)...) // a device may be longer than the snapshot
	var out []byte
	for _, s := range spans {
		out = append(append(out, padded[s.offset:s.offset+s.length]...), trailer...)
	}
	return out
}

func drawExtents(t *rapid.T, size int64) []providers.Extent {
	var extents []providers.Extent
	end := int64(0)
	for range rapid.IntRange(0, 12).Draw(t, "extents") {
		offset := end + rapid.Int64Range(0, 400<<10).Draw(t, "gap")
		length := rapid.Int64Range(1, 300<<10).Draw(t, "length")
		if offset+length > size {
			break
		}
		extents = append(extents, providers.Extent{Offset: offset, Length: length, Zero: rapid.IntRange(0, 5).Draw(t, "zero") == 0})
		end = offset + length
	}
	return extents
}

// TestReadGivesTheExtents holds that what comes out of the spans is exactly the extents with their bytes.
func TestReadGivesTheExtents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, 3<<20).Draw(t, "size")
		device := make([]byte, size)
		for i := range device {
			device[i] = byte(i>>8) ^ byte(i) | 1
		}
		extents := drawExtents(t, size)
		if err := checkExtents("read", "test", extents, size); err != nil {
			t.Fatal(err)
		}
		spans := spansOf(extents, size)
		var got []byte
		end := int64(0)
		c := &cutter{in: bufio.NewReader(bytes.NewReader(sent(device, spans))), extents: append([]providers.Extent(nil), extents...), each: func(b providers.Block) error {
			if b.Offset < end {
				t.Fatalf("block %d after %d", b.Offset, end)
			}
			end = b.End()
			data := b.Data
			if b.Zero {
				data = make([]byte, b.Length)
			} else if providers.Sum(b.Data) != b.CRC || !bytes.Equal(data, device[b.Offset:b.End()]) {
				t.Fatalf("block %d+%d has other bytes", b.Offset, b.Length)
			}
			got = append(got, data...)
			return nil
		}}
		if err := c.run(spans); err != nil {
			t.Fatal(err)
		}
		total := int64(0)
		for _, e := range extents {
			total += e.Length
		}
		if int64(len(got)) != total {
			t.Fatalf("%d bytes of %d", len(got), total)
		}
	})
}

// TestShortReadIsNoticed holds that a device that gives too little never passes for one that gave all.
func TestShortReadIsNoticed(t *testing.T) {
	size := int64(4 * readUnit)
	extents := []providers.Extent{{Offset: 0, Length: readUnit}, {Offset: 3 * readUnit, Length: readUnit}}
	spans := []span{{readUnit, 0, readUnit}, {readUnit, 3 * readUnit, readUnit}}
	whole := sent(bytes.Repeat([]byte{7}, int(size)), spans)
	for _, cut := range []int{1, 2, 3, 1000, readUnit} {
		short := append(bytes.Clone(whole[:readUnit-cut]), whole[readUnit:]...)
		passed := 0
		c := &cutter{in: bufio.NewReader(bytes.NewReader(short)), extents: append([]providers.Extent(nil), extents...), each: func(providers.Block) error { passed++; return nil }}
		if err := c.run(spans); !errors.Is(err, errShort) || passed != 0 {
			t.Errorf("%d bytes too few: %v, and %d blocks were passed on", cut, err, passed)
		}
	}
}

// written is what writeScript makes of frames on a device.
func written(t interface{ Fatalf(string, ...any) }, frames []byte, device []byte) (n int) {
	in := bufio.NewReader(bytes.NewReader(frames))
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatalf("the frames end without an E: %v", err)
		}
		if line == "E\n" {
			return n
		}
		var kind string
		var unit, seek, count int64
		if _, err := fmt.Sscanf(line, "%s %d %d %d", &kind, &unit, &seek, &count); err != nil {
			t.Fatalf("frame %q: %v", line, err)
		}
		part := device[unit*seek : unit*(seek+count)]
		if kind == "Z" {
			clear(part)
		} else if _, err := io.ReadFull(in, part); err != nil {
			t.Fatalf("frame %q: %v", line, err)
		}
		n++
	}
}

// TestWriteMakesTheContent holds that the device has the blocks' bytes and zeros elsewhere, also over old data.
func TestWriteMakesTheContent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, 24<<20).Draw(t, "size")
		old := rapid.Bool().Draw(t, "old")
		device, want := make([]byte, size+tailUnit), make([]byte, size)
		if old {
			for i := range device {
				device[i] = 9
			}
		}
		var blocks []providers.Block
		end := int64(0)
		for range rapid.IntRange(0, 8).Draw(t, "blocks") {
			offset := end + rapid.Int64Range(0, 5<<20).Draw(t, "gap")
			length := rapid.Int64Range(1, 3<<20).Draw(t, "length")
			if offset+length > size {
				break
			}
			end = offset + length
			if rapid.IntRange(0, 4).Draw(t, "zero") == 0 {
				blocks = append(blocks, providers.ZeroBlock(offset, length))
				continue
			}
			data := bytes.Repeat([]byte{byte(len(blocks) + 1)}, int(length))
			copy(want[offset:], data)
			blocks = append(blocks, providers.NewBlock(offset, data))
		}
		var frames bytes.Buffer
		k := &packer{size: size, zeros: old, out: &frames, report: func(int64) {}}
		if err := k.run(sourceOf(blocks)); err != nil {
			t.Fatal(err)
		}
		if n := written(t, frames.Bytes(), device); n != k.frames {
			t.Fatalf("%d frames, the packer counts %d", n, k.frames)
		}
		if !bytes.Equal(device[:size], want) {
			t.Fatal("the device has other bytes")
		}
	})
}

func sourceOf(blocks []providers.Block) providers.Source {
	return func() (providers.Block, error) {
		if len(blocks) == 0 {
			return providers.Block{}, io.EOF
		}
		b := blocks[0]
		blocks = blocks[1:]
		return b, nil
	}
}

func TestWriteRefuses(t *testing.T) {
	bad := providers.NewBlock(0, []byte("abc"))
	bad.CRC++
	for name, c := range map[string]struct {
		blocks []providers.Block
		kind   fault.Kind
	}{
		"checksum": {[]providers.Block{bad}, fault.Corrupt},
		"overlap":  {[]providers.Block{providers.ZeroBlock(0, 10), providers.NewBlock(9, []byte("x"))}, fault.Invalid},
		"beyond":   {[]providers.Block{providers.ZeroBlock(90, 11)}, fault.Invalid},
		"negative": {[]providers.Block{providers.ZeroBlock(-1, 5)}, fault.Invalid},
	} {
		k := &packer{size: 100, out: io.Discard, report: func(int64) {}}
		if err := k.run(sourceOf(c.blocks)); !fault.Is(err, c.kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestExtentsAreInOrder(t *testing.T) {
	var got []providers.Extent
	o := &ordered{size: 1000, each: func(e []providers.Extent) error { got = append(got, e...); return nil }}
	must(t, o.add([]providers.Extent{{Offset: 0, Length: 100}, {Offset: 100, Length: 50}}))
	must(t, o.add([]providers.Extent{{Offset: 150, Length: 10}, {Offset: 900, Length: 500}, {Offset: 2000, Length: 1}}))
	must(t, o.flush())
	if fmt.Sprint(got) != "[{0 160 false} {900 100 false}]" {
		t.Errorf("extents are %v", got)
	}
	if err := o.add([]providers.Extent{{Offset: 10, Length: 1}}); !fault.Is(err, fault.Corrupt) {
		t.Errorf("extents that go back: %v", err)
	}
}
