package aws

import (
	"context"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

const opExtents = "list extents"

// blockSize is what EBS direct reads and writes at once.
const blockSize = 512 << 10

// listSize is the most that one page of blocks holds; AWS takes 100 to 10,000.
const (
	listSize    = 10000
	minListSize = 100
)

// Extents implements providers.Blocks.
func (p *provider) Extents(ctx context.Context, request providers.ExtentsRequest, each func([]providers.Extent) error) error {
	id, err := open(opExtents, request.Snapshot, snapshotID)
	if err != nil {
		return err
	}
	at, err := p.placeOf(ctx, opExtents, id)
	if err != nil {
		return err
	}
	list := &listing{provider: p, at: at, snapshot: id.ID}
	collect := &collector{each: each}
	if request.Base.IsZero() {
		err = list.all(ctx, 0, listSize, collect.add)
	} else {
		base, openErr := open(opExtents, request.Base, snapshotID)
		if openErr != nil {
			return openErr
		}
		if base.Region != id.Region || base.Account != id.Account {
			return fault.Newf(opExtents, fault.NotFound, base.ID, "the base is in another region or account than %s: read everything", id.ID)
		}
		err = list.changed(ctx, base.ID, collect.add)
	}
	if err != nil {
		return err
	}
	return collect.flush()
}

// collector joins blocks into extents, and extents into portions.
type collector struct {
	each    func([]providers.Extent) error
	extents []providers.Extent
}

func (c *collector) add(index int32, token string) (bool, error) {
	next := providers.Extent{Offset: int64(index) * blockSize, Length: blockSize, Zero: token == ""}
	if n := len(c.extents); n > 0 && c.extents[n-1].End() == next.Offset && c.extents[n-1].Zero == next.Zero {
		c.extents[n-1].Length += blockSize
		return true, nil
	}
	if len(c.extents) == providers.MaxExtents {
		if err := c.flush(); err != nil {
			return false, err
		}
	}
	c.extents = append(c.extents, next)
	return true, nil
}

func (c *collector) flush() error {
	if len(c.extents) == 0 {
		return nil
	}
	full := c.extents
	c.extents = nil
	return c.each(full)
}

// listing lists a snapshot's blocks.
type listing struct {
	*provider
	at       *place
	snapshot string
}

// all calls each with the blocks from an index on that were ever written, until it returns false.
func (l *listing) all(ctx context.Context, from int32, size int, each func(int32, string) (bool, error)) error {
	input := &ebs.ListSnapshotBlocksInput{SnapshotId: aws.String(l.snapshot), MaxResults: aws.Int32(int32(size))}
	if from > 0 {
		input.StartingBlockIndex = aws.Int32(from)
	}
	for {
		out, err := l.at.ebs.ListSnapshotBlocks(ctx, input)
		if err != nil {
			return l.unlisted(ctx, l.snapshot, err)
		}
		for _, block := range out.Blocks {
			index, token := aws.ToInt32(block.BlockIndex), aws.ToString(block.BlockToken)
			l.known.put(l.snapshot, index, token)
			if goOn, err := each(index, token); err != nil || !goOn {
				return err
			}
		}
		if aws.ToString(out.NextToken) == "" {
			return nil
		}
		input.NextToken, input.StartingBlockIndex = out.NextToken, nil
	}
}

// changed calls each with the blocks that differ from the base's; a block that the snapshot lacks reads as
// zeros and has no token.
func (l *listing) changed(ctx context.Context, base string, each func(int32, string) (bool, error)) error {
	input := &ebs.ListChangedBlocksInput{FirstSnapshotId: aws.String(base), SecondSnapshotId: aws.String(l.snapshot), MaxResults: aws.Int32(listSize)}
	for {
		out, err := l.at.ebs.ListChangedBlocks(ctx, input)
		if reason(err) == ebstypes.ValidationExceptionReasonUnrelatedSnapshots {
			return fault.Newf(opExtents, fault.NotFound, base, "AWS cannot compare it with %s, they share no volume: read everything", l.snapshot)
		}
		if err != nil {
			return l.unlisted(ctx, base, err)
		}
		for _, block := range out.ChangedBlocks {
			index, token := aws.ToInt32(block.BlockIndex), aws.ToString(block.SecondBlockToken)
			if token != "" {
				l.known.put(l.snapshot, index, token)
			}
			if goOn, err := each(index, token); err != nil || !goOn {
				return err
			}
		}
		if aws.ToString(out.NextToken) == "" {
			return nil
		}
		input.NextToken = out.NextToken
	}
}

// unlisted explains an error of a list. EBS direct calls a snapshot unknown that is still being made, and
// for some time after: EC2 knows better.
func (l *listing) unlisted(ctx context.Context, subject string, err error) error {
	if !isNotFound(err) {
		return l.fail(opExtents, subject, err)
	}
	for _, id := range []string{subject, l.snapshot} {
		s, describeErr := l.describeSnapshot(ctx, opExtents, l.at, id)
		if describeErr != nil {
			return describeErr
		}
		if s.State != "completed" {
			return fault.Newf(opExtents, fault.Busy, id, "the snapshot is not completed yet: it is %s", s.State)
		}
	}
	return fault.Newf(opExtents, fault.Transient, subject, "EC2 knows the snapshot and EBS direct does not yet: %s", code(err))
}

// maxKnown is how many block tokens are kept: some 10 MB.
const maxKnown = 1 << 16

// tokenCache keeps tokens that were listed for a read that is likely to follow. They expire; a read that
// is refused lists again.
type tokenCache struct {
	mu     sync.Mutex
	count  int
	tokens map[string]map[int32]string
}

func newTokenCache() *tokenCache { return &tokenCache{tokens: map[string]map[int32]string{}} }

func (c *tokenCache) put(snapshot string, index int32, token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count >= maxKnown {
		c.tokens, c.count = map[string]map[int32]string{}, 0
	}
	if c.tokens[snapshot] == nil {
		c.tokens[snapshot] = map[int32]string{}
	}
	if _, known := c.tokens[snapshot][index]; !known {
		c.count++
	}
	c.tokens[snapshot][index] = token
}

func (c *tokenCache) get(snapshot string, index int32) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	token, ok := c.tokens[snapshot][index]
	return token, ok
}

// drop forgets a snapshot.
func (c *tokenCache) drop(snapshot string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count -= len(c.tokens[snapshot])
	delete(c.tokens, snapshot)
}
