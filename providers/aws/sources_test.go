package aws

import (
	"io"

	"github.com/musterdr/muster/providers"
)

// blocksOf gives a content in blocks of a size that is nobody's.
func blocksOf(content []byte, size int) providers.Source {
	at := 0
	return func() (providers.Block, error) {
		if at == len(content) {
			return providers.Block{}, io.EOF
		}
		from := at
		at = min(at+size, len(content))
		return providers.NewBlock(int64(from), content[from:at]), nil
	}
}
