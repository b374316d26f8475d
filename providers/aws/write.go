package aws

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

const opWrite = "write blocks"

// writing is one Write at work.
type writing struct {
	*provider
	request providers.WriteRequest
	sum     string
	shape   shape
	count   int32
	sums    hash.Hash // of all blocks' checksums, in ascending order
}

// Write implements providers.Blocks. The content goes into a snapshot by EBS direct; AWS completes the
// snapshot only when count and checksum of all blocks are right, and the volume is made from it then. So a
// volume of the token is complete. An interrupted call finds the snapshot that it began, and writes
// all blocks again: AWS overwrites them.
func (p *provider) Write(ctx context.Context, request providers.WriteRequest, source providers.Source) (providers.Volume, error) {
	if err := p.ready(opWrite); err != nil {
		return providers.Volume{}, err
	}
	if !request.Into.IsZero() {
		return providers.Volume{}, fault.Newf(opWrite, fault.Unsupported, name, "EBS volumes cannot be overwritten from outside: let a new one be made")
	}
	if !request.Snapshot.IsZero() {
		return providers.Volume{}, fault.Newf(opWrite, fault.Unsupported, name, "content on top of a snapshot: create the volume from the snapshot, or write all of it")
	}
	if err := checkCreate(opWrite, request.CreateRequest); err != nil {
		return providers.Volume{}, err
	}
	shape, err := shapeOf(opWrite, request.Parameters)
	if err != nil {
		return providers.Volume{}, err
	}
	w := &writing{provider: p, request: request, shape: shape, sum: digest("write", request.Name, request.Size, request.Zone, request.Tags, request.Parameters)}
	if key := p.encryption(shape); key != "" && !strings.HasPrefix(key, "arn:") {
		return providers.Volume{}, fault.Newf(opWrite, fault.Invalid, key, "EBS direct takes a key by its ARN alone: arn:aws:kms:…")
	}
	defer p.lock(request.Token)()
	return w.write(ctx, source)
}

func (w *writing) write(ctx context.Context, source providers.Source) (providers.Volume, error) {
	made, ok, err := w.volumeOf(ctx, opWrite, w.request.Token, w.sum)
	if err != nil {
		return providers.Volume{}, err
	}
	found, dead, err := w.find(ctx)
	if err != nil {
		return providers.Volume{}, err
	}
	if !ok {
		if found == nil || found.State != types.SnapshotStateCompleted {
			if found, err = w.fill(ctx, dead, source); err != nil {
				return w.overtaken(ctx, err)
			}
		}
		if made, err = w.makeVolume(ctx, opWrite, w.request.CreateRequest, aws.ToString(found.SnapshotId), w.sum); err != nil {
			return providers.Volume{}, err
		}
	}
	if found == nil || w.settings.KeepWriteSnapshots {
		return made, nil
	}
	return made, w.dropSnapshot(ctx, opWrite, w.home, aws.ToString(found.SnapshotId))
}

// overtaken looks, after a failure, whether another process of the same token has made the volume meanwhile:
// it completes the snapshot, and deletes it, under our hands.
func (w *writing) overtaken(ctx context.Context, cause error) (providers.Volume, error) {
	if kind := fault.KindOf(cause); ctx.Err() != nil || kind != fault.Invalid && kind != fault.NotFound && kind != fault.Transient {
		return providers.Volume{}, cause
	}
	if made, ok, err := w.volumeOf(ctx, opWrite, w.request.Token, w.sum); ok && err == nil {
		return made, nil
	}
	if kind := fault.KindOf(cause); reason(cause) == ebstypes.ValidationExceptionReasonInvalidSnapshotId || kind == fault.NotFound {
		return providers.Volume{}, fault.Newf(opWrite, fault.Busy, w.request.Token, "another process works with the same token: %w", cause)
	}
	return providers.Volume{}, cause
}

// find gives the snapshot that the token began, and the IDs of those that failed, which it deletes: a new
// one needs another client token then.
func (w *writing) find(ctx context.Context) (*types.Snapshot, string, error) {
	var found *types.Snapshot
	var dead []string
	err := w.home.eachSnapshot(ctx, opWrite, w.provider, []types.Filter{byToken(w.request.Token)}, func(s types.Snapshot) error {
		if fromEC2(s.Tags)[tagRequest] != w.sum {
			return fault.Newf(opWrite, fault.Exists, aws.ToString(s.SnapshotId), "the token made this snapshot for another request: use a new token")
		}
		if s.State == types.SnapshotStateError {
			dead = append(dead, aws.ToString(s.SnapshotId))
		} else {
			found = &s
		}
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	for _, id := range dead {
		if err := w.dropSnapshot(ctx, opWrite, w.home, id); err != nil {
			return nil, "", err
		}
	}
	return found, strings.Join(dead, ","), nil
}

// fill makes the snapshot with the source's content.
func (w *writing) fill(ctx context.Context, dead string, source providers.Source) (*types.Snapshot, error) {
	id, err := w.begin(ctx, dead)
	if err != nil {
		return nil, err
	}
	w.sums, w.count = sha256.New(), 0
	if err := w.putAll(ctx, id, source); err != nil {
		return nil, err
	}
	_, err = w.home.ebs.CompleteSnapshot(ctx, &ebs.CompleteSnapshotInput{
		SnapshotId: aws.String(id), ChangedBlocksCount: aws.Int32(w.count), Checksum: aws.String(base64.StdEncoding.EncodeToString(w.sums.Sum(nil))),
		ChecksumAlgorithm: ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256, ChecksumAggregationMethod: ebstypes.ChecksumAggregationMethodChecksumAggregationLinear,
	})
	if code(err) == "ValidationException" {
		// It holds blocks of an earlier try that this source does not have. The next try begins a new one.
		return nil, errors.Join(fault.Newf(opWrite, fault.Transient, id, "AWS holds other blocks than were written; the snapshot is begun anew: %s", w.fail(opWrite, id, err)),
			w.dropSnapshot(ctx, opWrite, w.home, id))
	}
	if err != nil {
		return nil, w.fail(opWrite, id, err)
	}
	if _, err := w.completed(ctx, opWrite, w.home, []string{id}); err != nil {
		return nil, err
	}
	return &types.Snapshot{SnapshotId: aws.String(id), State: types.SnapshotStateCompleted}, nil
}

// timeout is after how many minutes without a block AWS gives a begun snapshot up.
const timeout = 60

// begin starts the snapshot, or finds the one that the client token started.
func (w *writing) begin(ctx context.Context, dead string) (string, error) {
	more := with(named(w.request.Name), map[string]string{tagPart: "content"})
	input := &ebs.StartSnapshotInput{
		VolumeSize: aws.Int64(int64(w.whole(w.request.Size))), Timeout: aws.Int32(timeout), Description: aws.String("Muster: content of a volume that is made"),
		Tags: toEBS(w.made(w.request.Tags, w.request.Token, w.sum, more)),
	}
	if key := w.encryption(w.shape); w.shape.encrypted || key != "" {
		input.Encrypted = aws.Bool(true)
		if key != "" {
			input.KmsKeyArn = aws.String(key)
		}
	}
	for range maxMisses {
		input.ClientToken = aws.String(clientToken(w.request.Token, "snapshot", dead))
		out, err := w.home.ebs.StartSnapshot(ctx, input)
		if err != nil {
			return "", w.fail(opWrite, w.home.region, err)
		}
		if out.Status == ebstypes.StatusPending {
			return aws.ToString(out.SnapshotId), nil
		}
		// The token still names a snapshot that failed, or that was completed and deleted.
		dead += "," + aws.ToString(out.SnapshotId)
	}
	return "", fault.Newf(opWrite, fault.Transient, w.home.region, "AWS keeps answering with snapshots that have ended: use a new token")
}

// putAll assembles the source's blocks into AWS's, and puts those that are not all zeros, in parallel.
func (w *writing) putAll(ctx context.Context, id string, source providers.Source) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var flying sync.WaitGroup
	defer flying.Wait()
	size := w.request.Size
	err := assemble(size, source, func(index int32, data []byte) error {
		if bytes.Equal(data, zeros[:]) {
			return nil
		}
		sum := sha256.Sum256(data)
		w.sums.Write(sum[:])
		w.count++
		if err := w.home.pace.enter(ctx); err != nil {
			return err
		}
		flying.Go(func() {
			defer w.home.pace.leave()
			if err := w.put(ctx, id, index, data, sum); err != nil {
				cancel(err)
			}
		})
		providers.Report(ctx, providers.Progress{Done: int64(index+1) * blockSize, Total: size, Text: "blocks put"})
		return nil
	})
	if err == nil {
		flying.Wait()
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	if err == nil {
		err = ctx.Err()
	}
	cancel(nil)
	return w.fail(opWrite, id, err)
}

func (w *writing) put(ctx context.Context, id string, index int32, data []byte, sum [sha256.Size]byte) error {
	_, err := w.home.ebs.PutSnapshotBlock(ctx, &ebs.PutSnapshotBlockInput{
		SnapshotId: aws.String(id), BlockIndex: aws.Int32(index), BlockData: bytes.NewReader(data), DataLength: aws.Int32(blockSize),
		Checksum: aws.String(base64.StdEncoding.EncodeToString(sum[:])), ChecksumAlgorithm: ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256,
	})
	return err
}

// assemble cuts ascending blocks of any size into those of AWS; each owns what it is given.
func assemble(size int64, source providers.Source, each func(index int32, data []byte) error) error {
	var data []byte
	index, end := int32(-1), int64(0)
	flush := func() error {
		if data == nil {
			return nil
		}
		full := data
		data = nil
		return each(index, full)
	}
	for {
		block, err := source()
		if errors.Is(err, io.EOF) {
			return flush()
		}
		if err != nil {
			return err
		}
		if err := checkBlock(block, end, size); err != nil {
			return err
		}
		end = block.End()
		if block.Zero {
			continue // what is not written is zeros
		}
		for at := block.Offset; at < block.End(); {
			next := int32(at / blockSize)
			if next != index {
				if err := flush(); err != nil {
					return err
				}
				index = next
			}
			if data == nil {
				data = make([]byte, blockSize)
			}
			at += int64(copy(data[at%blockSize:], block.Data[at-block.Offset:]))
		}
	}
}

func checkBlock(block providers.Block, end, size int64) error {
	subject := fmt.Sprintf("block at %d", block.Offset)
	if block.Offset < end || block.Length <= 0 || block.Length > size || block.Offset > size-block.Length {
		return fault.Newf(opWrite, fault.Invalid, subject, "it is out of order, empty, or beyond the size of %d bytes", size)
	}
	if block.Zero {
		return nil
	}
	if int64(len(block.Data)) != block.Length {
		return fault.Newf(opWrite, fault.Invalid, subject, "it has %d bytes of data and a length of %d", len(block.Data), block.Length)
	}
	if providers.Sum(block.Data) != block.CRC {
		return fault.Newf(opWrite, fault.Corrupt, subject, "its data does not match its checksum")
	}
	return nil
}
