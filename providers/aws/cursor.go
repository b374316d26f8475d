package aws

import (
	"context"

	"github.com/musterdr/muster/providers"
)

// cursor finds the tokens of ascending blocks: among those that Extents listed, else by lists of its own,
// of which it keeps one page.
type cursor struct {
	list   *listing
	tokens map[int32]string
	from   int32 // the page knows all blocks from here
	to     int32 // to here, this one not
}

// token of a block, "" when the snapshot does not have it. wanted is what is still to come.
func (c *cursor) token(ctx context.Context, index int32, wanted []providers.Extent) (string, error) {
	if index >= c.from && index < c.to {
		return c.tokens[index], nil
	}
	if token, ok := c.list.known.get(c.list.snapshot, index); ok {
		return token, nil
	}
	if err := c.load(ctx, index, wanted); err != nil {
		return "", err
	}
	return c.tokens[index], nil
}

// load lists from a block on, about as much as is wanted and no more than one page.
func (c *cursor) load(ctx context.Context, index int32, wanted []providers.Extent) error {
	blocks, end := int64(0), int64(index)
	for _, e := range wanted {
		blocks += (e.End()+blockSize-1)/blockSize - e.Offset/blockSize
		end = (e.End() + blockSize - 1) / blockSize
		if blocks >= listSize {
			break
		}
	}
	size := int(min(max(blocks, minListSize), listSize))
	c.tokens, c.from, c.to = map[int32]string{}, index, int32(end)
	return c.list.all(ctx, index, size, func(i int32, token string) (bool, error) {
		if i >= c.to {
			return false, nil
		}
		c.tokens[i] = token
		if len(c.tokens) < size {
			return true, nil
		}
		c.to = i + 1
		return false, nil
	})
}
