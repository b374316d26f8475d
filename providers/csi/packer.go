package csi

import (
	"errors"
	"fmt"
	"io"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// packer makes frames of a mover's writeScript out of blocks of any offset and length.
type packer struct {
	op, subject string
	size        int64
	zeros       bool // what is left out is written as zeros
	out         io.Writer
	report      func(done int64)

	buffer []byte
	start  int64 // where the buffer begins: a whole unit
	end    int64 // where the bytes so far end
	told   int64 // where the last block ended
	frames int
}

func (k *packer) run(source providers.Source) error {
	k.buffer = make([]byte, 0, writeRoom)
	for {
		block, err := source()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := k.add(block); err != nil {
			return err
		}
		k.report(k.told)
	}
	if err := k.leaveOut(k.size); err != nil {
		return err
	}
	if err := k.flush(); err != nil {
		return err
	}
	_, err := io.WriteString(k.out, "E\n")
	return err
}

func (k *packer) add(b providers.Block) error {
	if b.Length <= 0 || b.Offset < k.told || b.Length > k.size-b.Offset {
		return fault.Newf(k.op, fault.Invalid, k.subject, "block %d+%d does not ascend, or is not within %d bytes", b.Offset, b.Length, k.size)
	}
	if !b.Zero && (int64(len(b.Data)) != b.Length || providers.Sum(b.Data) != b.CRC) {
		return fault.Newf(k.op, fault.Corrupt, k.subject, "block %d+%d does not match its checksum", b.Offset, b.Length)
	}
	k.told = b.End()
	if b.Zero {
		return nil // like what is left out; the next block, or the end, sees to it
	}
	if err := k.leaveOut(b.Offset); err != nil {
		return err
	}
	k.end = b.Offset
	return k.put(b.Data)
}

// leaveOut goes on to an offset over zeros.
func (k *packer) leaveOut(offset int64) error {
	if !k.zeros || offset <= k.end {
		return nil
	}
	// The rest of the unit at hand goes with its bytes, whole units go as a frame without bytes.
	first := min(roundUp(k.end), offset)
	if err := k.put(make([]byte, first-k.end)); err != nil {
		return err
	}
	if whole := offset / writeUnit * writeUnit; whole > k.end {
		if err := k.flush(); err != nil {
			return err
		}
		if err := k.frame("Z", writeUnit, k.end, whole-k.end, nil); err != nil {
			return err
		}
		k.end = whole
	}
	return k.put(make([]byte, offset-k.end))
}

func roundUp(n int64) int64 { return (n + writeUnit - 1) / writeUnit * writeUnit }

// put appends bytes at the end.
func (k *packer) put(data []byte) error {
	for len(data) > 0 {
		if len(k.buffer) > 0 && (k.end-k.start >= writeRoom || k.end > roundUp(k.start+int64(len(k.buffer)))) {
			if err := k.flush(); err != nil {
				return err
			}
		}
		if len(k.buffer) == 0 {
			k.start = k.end / writeUnit * writeUnit
		}
		at := int(k.end - k.start)
		n := min(len(data), writeRoom-at)
		k.grow(at + n)
		copy(k.buffer[at:], data[:n])
		data = data[n:]
		k.end += int64(n)
	}
	return nil
}

// grow makes the buffer longer, with zeros.
func (k *packer) grow(length int) {
	old := len(k.buffer)
	if length <= old {
		return
	}
	k.buffer = k.buffer[:length]
	clear(k.buffer[old:])
}

// flush sends the buffer: whole units, and at the end of the volume what is left of one.
func (k *packer) flush() error {
	if len(k.buffer) == 0 {
		return nil
	}
	k.grow(int(min(roundUp(k.start+int64(len(k.buffer))), max(k.size, k.start+int64(len(k.buffer)))) - k.start))
	whole := len(k.buffer) / writeUnit * writeUnit
	if whole > 0 {
		if err := k.frame("D", writeUnit, k.start, int64(whole), k.buffer[:whole]); err != nil {
			return err
		}
	}
	if rest := len(k.buffer) - whole; rest > 0 {
		k.grow(whole + (rest+tailUnit-1)/tailUnit*tailUnit)
		if err := k.frame("D", tailUnit, k.start+int64(whole), int64(len(k.buffer)-whole), k.buffer[whole:]); err != nil {
			return err
		}
	}
	k.buffer = k.buffer[:0]
	return nil
}

// frame sends one frame; the length is a multiple of the unit.
func (k *packer) frame(kind string, unit, offset, length int64, data []byte) error {
	if _, err := fmt.Fprintf(k.out, "%s %d %d %d\n", kind, unit, offset/unit, length/unit); err != nil {
		return err
	}
	k.frames++
	_, err := k.out.Write(data)
	return err
}
