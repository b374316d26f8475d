package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/orchestrator/volume"
	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/testenv/moto"
)

const (
	ebsRegion  = "eu-west-1"
	ebsBytes   = 256 << 20
	ebsClients = 16 // as many as the provider has
)

func ebsBlocks() benchmark {
	return benchmark{
		name: "ebs-blocks", unit: "MB/s", against: "GetSnapshotBlock by as many clients", runs: 3, warm: true,
		how: "MB a second of a snapshot of a volume of 1 GiB with 256 MiB of data, half random and half text, from a stand-in for EBS direct in the bench's own process: what is compared is the client, not AWS. " +
			"Ours is what capture-volumes does with a snapshot: list the blocks, read 16 at once through the provider's process, compare checksums, store in an empty repository (encrypted, compressed, flushed). " +
			"The reference lists the blocks and reads 16 at once with the SDK, and keeps nothing.",
		prepare: prepareEBS,
	}
}

// ebsBench is a snapshot at the stand-in.
type ebsBench struct {
	on       *stage
	front    *moto.Front
	provider providers.Provider
	snapshot providers.Snapshot
}

func prepareEBS(ctx context.Context, on *stage) (sides, error) {
	b := &ebsBench{on: on}
	var err error
	if b.front, err = moto.Start(ctx); err != nil {
		return sides{}, err
	}
	on.after(func(context.Context) error { return b.front.Stop() })
	made, err := b.front.EC2(ebsRegion).CreateVolume(ctx, &ec2.CreateVolumeInput{AvailabilityZone: aws.String(ebsRegion + "a"), Size: aws.Int32(1)})
	if err != nil {
		return sides{}, err
	}
	id := aws.ToString(made.VolumeId)
	for at := int64(0); at < ebsBytes; at += 1 << 20 {
		from := newSource(uint64(at))
		b.front.Content.WriteVolume(id, 2*at, append(from.random(1<<19), from.text(1<<19)...)[:1<<20])
	}
	file := on.fresh("credentials")
	if err := os.WriteFile(file, []byte("[default]\naws_access_key_id = lab-access\naws_secret_access_key = lab\n"), 0o600); err != nil {
		return sides{}, err
	}
	if err := os.Setenv("AWS_SHARED_CREDENTIALS_FILE", file); err != nil {
		return sides{}, err
	}
	settings := map[string]any{"region": ebsRegion, "endpoints": map[string]any{"ec2": b.front.URL, "ebs": b.front.URL, "sts": b.front.URL}}
	if b.provider, err = startProvider(ctx, on, "aws", settings, "AWS_SHARED_CREDENTIALS_FILE"); err != nil {
		return sides{}, err
	}
	v, err := findVolume(ctx, b.provider, id)
	if err != nil {
		return sides{}, err
	}
	b.snapshot, err = snapshotOf(ctx, b.provider, v, "bench")
	return sides{ours: b.ours, reference: b.reference}, err
}

func (b *ebsBench) ours(ctx context.Context) (rate float64, err error) {
	v, err := newVault(ctx, b.on)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, v.remove(ctx)) }()
	began := time.Now()
	captured, err := volume.BlockCapture{Provider: b.provider, Snapshot: b.snapshot, Repository: v.Repository, Name: b.snapshot.ID, Progress: silence{}}.Capture(ctx)
	if err != nil {
		return 0, err
	}
	err = v.Flush(ctx)
	took := time.Since(began)
	if err == nil && captured.Read != ebsBytes {
		err = fmt.Errorf("%d bytes were read", captured.Read)
	}
	return perSecond(ebsBytes, took), err
}

func (b *ebsBench) reference(ctx context.Context) (float64, error) {
	client := ebs.New(ebs.Options{Region: ebsRegion, BaseEndpoint: aws.String(b.front.URL), Credentials: credentials.NewStaticCredentialsProvider("lab-access", "lab", "")})
	began, id := time.Now(), aws.String(b.snapshot.ID)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(ebsClients)
	pages := ebs.NewListSnapshotBlocksPaginator(client, &ebs.ListSnapshotBlocksInput{SnapshotId: id})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return 0, errors.Join(err, group.Wait())
		}
		for _, block := range page.Blocks {
			group.Go(func() error {
				got, err := client.GetSnapshotBlock(ctx, &ebs.GetSnapshotBlockInput{SnapshotId: id, BlockIndex: block.BlockIndex, BlockToken: block.BlockToken})
				if err != nil {
					return err
				}
				_, err = io.Copy(io.Discard, got.BlockData)
				return errors.Join(err, got.BlockData.Close())
			})
		}
	}
	err := group.Wait()
	return perSecond(ebsBytes, time.Since(began)), err
}
