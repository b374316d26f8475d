package aws

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

const opRead = "read blocks"

// reason is what a refusal of EBS direct says about itself.
func reason(err error) ebstypes.ValidationExceptionReason {
	var refused *ebstypes.ValidationException
	if errors.As(err, &refused) {
		return refused.Reason
	}
	return ""
}

// reading is one Read at work.
type reading struct {
	*provider
	at       *place
	snapshot string
	where    *cursor
	flying   sync.WaitGroup
}

// Read implements providers.Blocks: blocks are fetched in parallel and given in order. At most
// twice settings.Parallel of them are in memory.
func (p *provider) Read(ctx context.Context, request providers.ReadRequest, each func(providers.Block) error) error {
	id, err := open(opRead, request.Snapshot, snapshotID)
	if err != nil {
		return err
	}
	at, err := p.placeOf(ctx, opRead, id)
	if err != nil {
		return err
	}
	if err := p.checkExtents(ctx, at, id.ID, request.Extents); err != nil {
		return err
	}
	r := &reading{provider: p, at: at, snapshot: id.ID, where: &cursor{list: &listing{provider: p, at: at, snapshot: id.ID}}}
	ctx, cancel := context.WithCancel(ctx)
	jobs := make(chan *fetch, p.settings.Parallel)
	planned := make(chan error, 1)
	go func() {
		defer close(jobs)
		planned <- r.plan(ctx, request.Extents, jobs)
	}()
	defer r.flying.Wait()
	defer cancel()
	for job := range jobs {
		if err := job.wait(ctx); err != nil {
			cancel()
			for range jobs { // the planner ends with its context
			}
			return p.fail(opRead, id.ID, err)
		}
		if err := job.deliver(each); err != nil {
			cancel()
			for range jobs { // as above
			}
			return err
		}
	}
	return p.fail(opRead, id.ID, <-planned)
}

func (p *provider) checkExtents(ctx context.Context, at *place, id string, extents []providers.Extent) error {
	s, err := p.describeSnapshot(ctx, opRead, at, id)
	if err != nil {
		return err
	}
	if s.State != "completed" {
		return fault.Newf(opRead, fault.Busy, id, "the snapshot is not completed yet: it is %s", s.State)
	}
	end, size := int64(0), int64(aws.ToInt32(s.VolumeSize))*p.config.unit
	for _, e := range extents {
		if e.Offset < end || e.Length <= 0 || e.Length > size || e.Offset > size-e.Length {
			return fault.Newf(opRead, fault.Invalid, id, "extent %d+%d is out of order, empty, or beyond the %d bytes of the snapshot", e.Offset, e.Length, size)
		}
		end = e.End()
	}
	return nil
}

// fetch is one block of AWS's, or a stretch of zeros, and the pieces that are wanted of it.
type fetch struct {
	start  int64 // where the block begins
	pieces []providers.Extent
	done   chan struct{} // nil for zeros
	data   []byte
	err    error
}

// wait waits until the data is there.
func (f *fetch) wait(ctx context.Context) error {
	if f.done == nil {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-f.done:
		return f.err
	}
}

func (f *fetch) deliver(each func(providers.Block) error) error {
	for _, piece := range f.pieces {
		if err := each(f.block(piece)); err != nil {
			return err
		}
	}
	return nil
}

var zeros [blockSize]byte

func (f *fetch) block(piece providers.Extent) providers.Block {
	if f.done == nil {
		return providers.ZeroBlock(piece.Offset, piece.Length)
	}
	data := f.data[piece.Offset-f.start : piece.End()-f.start]
	if bytes.Equal(data, zeros[:len(data)]) {
		return providers.ZeroBlock(piece.Offset, piece.Length)
	}
	return providers.NewBlock(piece.Offset, data)
}

// plan cuts the extents into fetches and starts them, no further ahead than jobs takes.
func (r *reading) plan(ctx context.Context, extents []providers.Extent, jobs chan<- *fetch) error {
	var last *fetch
	send := func() error {
		if last == nil {
			return nil
		}
		job := last
		last = nil
		select {
		case <-ctx.Done():
			return ctx.Err()
		case jobs <- job:
			return nil
		}
	}
	for i, e := range extents {
		remaining := extents[i:]
		for at := e.Offset; at < e.End(); {
			index := int32(at / blockSize)
			start := int64(index) * blockSize
			piece := providers.Extent{Offset: at, Length: min(e.End(), start+blockSize) - at}
			at = piece.End()
			if last != nil && last.done != nil && last.start == start {
				last.pieces = append(last.pieces, piece)
				continue
			}
			token, err := r.where.token(ctx, index, remaining)
			if err != nil {
				return errors.Join(send(), err)
			}
			if token == "" && last != nil && last.join(piece) {
				continue
			}
			if err := send(); err != nil {
				return err
			}
			last = &fetch{start: start, pieces: []providers.Extent{piece}}
			if token != "" {
				if err := r.start(ctx, last, index, token); err != nil {
					return err
				}
			}
		}
	}
	return send()
}

// join makes a stretch of zeros longer, up to what a block may have.
func (f *fetch) join(piece providers.Extent) bool {
	if f.done != nil {
		return false
	}
	end := &f.pieces[len(f.pieces)-1]
	if end.End() != piece.Offset || end.Length+piece.Length > providers.MaxBlock {
		return false
	}
	end.Length += piece.Length
	return true
}

// start fetches in the background when the pace allows one more.
func (r *reading) start(ctx context.Context, f *fetch, index int32, token string) error {
	if err := r.at.pace.enter(ctx); err != nil {
		return err
	}
	f.done = make(chan struct{})
	r.flying.Go(func() {
		defer close(f.done)
		defer r.at.pace.leave()
		f.data, f.err = r.get(ctx, index, token)
	})
	return nil
}

// get fetches a block. A token that has expired is listed anew; data that does not match its checksum is
// fetched once more.
func (r *reading) get(ctx context.Context, index int32, token string) ([]byte, error) {
	token = r.latest(index, token)
	data, err := r.getOnce(ctx, index, token)
	if reason(err) == ebstypes.ValidationExceptionReasonInvalidBlockToken {
		if token, err = r.renew(ctx, index, token); err != nil {
			return nil, err
		}
		data, err = r.getOnce(ctx, index, token)
	}
	if fault.Is(err, fault.Corrupt) || errors.Is(err, io.ErrUnexpectedEOF) {
		data, err = r.getOnce(ctx, index, token)
	}
	if isNotFound(err) {
		return nil, fault.Newf(opRead, fault.NotFound, r.snapshot, "somebody has deleted the snapshot while it was read")
	}
	return data, r.fail(opRead, r.snapshot, err)
}

// latest is the token that was listed last: others may have been refused one meanwhile.
func (r *reading) latest(index int32, token string) string {
	if fresh, ok := r.known.get(r.snapshot, index); ok {
		return fresh
	}
	return token
}

// renew finds another token for a block, and with it those of the next hundred.
func (r *reading) renew(ctx context.Context, index int32, refused string) (string, error) {
	if fresh := r.latest(index, refused); fresh != refused {
		return fresh, nil
	}
	found, seen := "", 0
	l := &listing{provider: r.provider, at: r.at, snapshot: r.snapshot}
	err := l.all(ctx, index, minListSize, func(i int32, token string) (bool, error) {
		if i == index {
			found = token
		}
		seen++
		return seen < minListSize, nil
	})
	if err == nil && found == "" {
		err = fault.Newf(opRead, fault.Corrupt, r.snapshot, "block %d was listed before and is not any more", index)
	}
	return found, err
}

func (r *reading) getOnce(ctx context.Context, index int32, token string) ([]byte, error) {
	out, err := r.at.ebs.GetSnapshotBlock(ctx, &ebs.GetSnapshotBlockInput{
		SnapshotId: aws.String(r.snapshot), BlockIndex: aws.Int32(index), BlockToken: aws.String(token),
	})
	if err != nil {
		return nil, err
	}
	defer out.BlockData.Close()
	data := make([]byte, blockSize)
	if _, err := io.ReadFull(out.BlockData, data); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	if out.ChecksumAlgorithm != ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256 || aws.ToString(out.Checksum) != base64.StdEncoding.EncodeToString(sum[:]) {
		return nil, fault.Newf(opRead, fault.Corrupt, r.snapshot, "block %d does not match the checksum that AWS gives for it", index)
	}
	return data, nil
}
