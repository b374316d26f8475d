package machine

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

func TestAheadGivesWhatItReads(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, aheadBlock - 1, aheadBlock, aheadBlock + 1, 5*aheadBlock + 7} {
		content := make([]byte, size)
		for i := range content {
			content[i] = byte(random.Uint32())
		}
		broken := errors.New("broken")
		for _, end := range []error{io.EOF, broken} {
			source := io.MultiReader(iotest.HalfReader(bytes.NewReader(content)), iotest.ErrReader(end))
			reader, stop := ahead(source)
			got, err := io.ReadAll(iotest.OneByteReader(io.LimitReader(reader, 10)))
			rest, restErr := io.ReadAll(reader)
			stop()
			if !bytes.Equal(append(got, rest...), content) || err != nil && !errors.Is(err, end) {
				t.Errorf("%d bytes: %d came, %v", size, len(got)+len(rest), err)
			}
			if errors.Is(end, broken) && !errors.Is(errors.Join(err, restErr), broken) {
				t.Errorf("%d bytes: the source's error is lost: %v, %v", size, err, restErr)
			}
		}
	}
}

// TestAheadStops ends a reader whose source has no end, while its queue is full.
func TestAheadStops(t *testing.T) {
	source := &endless{}
	reader, stop := ahead(source)
	if _, err := io.ReadFull(reader, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	stop()
	read := source.n
	if _, err := source.Read(make([]byte, 1)); err != nil || source.n != read+1 { // nobody reads beside this
		t.Errorf("%d bytes were read, then %d: %v", read, source.n, err)
	}
}

type endless struct{ n int }

func (e *endless) Read(p []byte) (int, error) {
	e.n += len(p)
	return len(p), nil
}
