package machine

import (
	"errors"
	"io"
)

// What is read ahead at most: 16 MiB.
const (
	aheadBlock  = 256 << 10
	aheadBlocks = 64
)

// ahead reads on while whoever reads from it is busy: a machine that unpacks takes much, then little, and
// a repository gives as unevenly. stop ends it; nothing is read from source after stop has returned.
func ahead(source io.Reader) (reader io.Reader, stop func()) {
	blocks, done, ended := make(chan block, aheadBlocks), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			b := block{data: make([]byte, aheadBlock)}
			n, err := io.ReadFull(source, b.data)
			if errors.Is(err, io.ErrUnexpectedEOF) {
				err = io.EOF
			}
			b.data, b.err = b.data[:n], err
			select {
			case blocks <- b:
			case <-done:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return &aheadReader{blocks: blocks}, func() { close(done); <-ended }
}

// block is a stretch of a source, and why nothing comes after it.
type block struct {
	data []byte
	err  error
}

type aheadReader struct {
	blocks <-chan block
	now    block
}

// Read implements io.Reader.
func (r *aheadReader) Read(p []byte) (int, error) {
	for len(r.now.data) == 0 {
		if r.now.err != nil {
			return 0, r.now.err
		}
		r.now = <-r.blocks
	}
	n := copy(p, r.now.data)
	r.now.data = r.now.data[n:]
	return n, nil
}
