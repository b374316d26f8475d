package volume

import (
	"context"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
	"github.com/musterdr/muster/state/repository"
)

// Progress receives how far a move has come: orchestrator.Progress.
type Progress interface {
	Total(bytes, items int64)
	Add(bytes, items int64)
	Status(text string)
}

// Base is what an incremental capture builds on: an earlier snapshot that its backend still has, and the
// image that was made of it.
type Base struct {
	Snapshot providers.Handle
	Image    repository.Image
}

// BlockCapture says which snapshot becomes an image.
type BlockCapture struct {
	Provider   providers.Provider
	Snapshot   providers.Snapshot
	Base       *Base // nil: everything is read
	Repository *repository.Repository
	Name       string // for errors
	Progress   Progress
}

// CapturedBlocks is what a capture of blocks made, and what it cost.
type CapturedBlocks struct {
	Image       repository.Image      `json:"image"`
	Stats       repository.ImageStats `json:"stats"`
	Read        int64                 `json:"read"` // bytes that the backend was asked for
	Incremental bool                  `json:"incremental"`
}

// Capture reads the snapshot into the repository: with a base, what has changed since, and else what
// holds data. A base that the backend or the repository has no more is done without.
func (c BlockCapture) Capture(ctx context.Context) (CapturedBlocks, error) {
	if c.Base == nil {
		return c.capture(ctx, nil)
	}
	captured, err := c.capture(ctx, c.Base)
	if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Corrupt) || fault.Is(err, fault.Unsupported) {
		c.Progress.Status("everything of " + c.Name + ": its base cannot be used")
		return c.capture(ctx, nil)
	}
	return captured, err
}

func (c BlockCapture) capture(ctx context.Context, base *Base) (CapturedBlocks, error) {
	config, request := repository.ImageConfig{Size: c.Snapshot.Size}, providers.ExtentsRequest{Snapshot: c.Snapshot.Handle}
	if base != nil {
		config.Base, request.Base = &base.Image, base.Snapshot
	}
	var extents []providers.Extent
	err := c.Provider.Extents(ctx, request, func(some []providers.Extent) error {
		extents = append(extents, some...)
		return nil
	})
	if err != nil {
		return CapturedBlocks{}, err
	}
	image, err := c.Repository.NewImage(ctx, c.Name, config)
	if err != nil {
		return CapturedBlocks{}, err
	}
	defer image.Abort()
	m := &blockMove{BlockCapture: c, image: image}
	if err := m.all(ctx, extents); err != nil {
		return CapturedBlocks{}, err
	}
	out := CapturedBlocks{Read: m.read, Incremental: base != nil}
	out.Image, out.Stats, err = image.Commit()
	return out, err
}

// blockMove is one capture at work.
type blockMove struct {
	BlockCapture
	image *repository.ImageWriter
	zeros []providers.Extent // not written yet, ascending
	at    int64              // the end of what was written
	read  int64
}

func (m *blockMove) all(ctx context.Context, extents []providers.Extent) error {
	var data []providers.Extent
	var total int64
	for _, e := range extents {
		if e.Zero {
			m.zeros = append(m.zeros, e)
			continue
		}
		data = append(data, e)
		total += e.Length
	}
	m.Progress.Total(total, 0)
	for len(data) > 0 {
		batch := data[:min(len(data), providers.MaxExtents)]
		data = data[len(batch):]
		if err := m.batch(ctx, batch); err != nil {
			return err
		}
	}
	return m.zerosBefore(m.Snapshot.Size)
}

// batch reads some extents. A provider that breaks off is asked for the rest, as long as it comes further:
// what was read needs not be read again.
func (m *blockMove) batch(ctx context.Context, extents []providers.Extent) error {
	for {
		before := m.at
		err := m.Provider.Read(ctx, providers.ReadRequest{Snapshot: m.Snapshot.Handle, Extents: extents}, m.write)
		if err == nil || ctx.Err() != nil || !fault.KindOf(err).Retryable() || m.at == before {
			return err
		}
		extents = after(m.at, extents)
		if len(extents) == 0 {
			return nil
		}
	}
}

// after is what of ascending extents lies behind an offset.
func after(offset int64, extents []providers.Extent) []providers.Extent {
	for i, e := range extents {
		if e.End() <= offset {
			continue
		}
		rest := append([]providers.Extent{}, extents[i:]...)
		if e.Offset < offset {
			rest[0] = providers.Extent{Offset: offset, Length: e.End() - offset}
		}
		return rest
	}
	return nil
}

func (m *blockMove) write(block providers.Block) error {
	if err := m.zerosBefore(block.Offset); err != nil {
		return err
	}
	write := func() error { return m.image.Write(block.Offset, block.Data) }
	if block.Zero {
		write = func() error { return m.image.Zero(block.Offset, block.Length) }
	}
	if err := write(); err != nil {
		return err
	}
	m.at = block.End()
	m.read += block.Length
	m.Progress.Add(block.Length, 0)
	return nil
}

func (m *blockMove) zerosBefore(offset int64) error {
	for len(m.zeros) > 0 && m.zeros[0].Offset < offset {
		if err := m.image.Zero(m.zeros[0].Offset, m.zeros[0].Length); err != nil {
			return err
		}
		m.zeros = m.zeros[1:]
	}
	return nil
}

// RestoreBlocks makes a volume of an image; request tells where and how. Each chunk is compared with its
// digest before the backend gets it.
func RestoreBlocks(ctx context.Context, from *repository.Repository, image repository.Image, provider providers.Provider, request providers.WriteRequest, progress Progress) (providers.Volume, error) {
	reader, err := from.OpenImage(ctx, request.Name, image)
	if err != nil {
		return providers.Volume{}, err
	}
	defer reader.Close()
	progress.Total(image.Object.Size, 0)
	return provider.Write(ctx, request, func() (providers.Block, error) {
		stretch, err := reader.Next()
		if err != nil {
			return providers.Block{}, err
		}
		progress.Add(stretch.Length, 0)
		if stretch.Data == nil {
			return providers.ZeroBlock(stretch.Offset, stretch.Length), nil
		}
		return providers.NewBlock(stretch.Offset, stretch.Data), nil
	})
}

// CompareBlocks reads a volume back, by a snapshot that is deleted again, and compares it with the image it
// was made of: fault.Corrupt names the first difference.
func CompareBlocks(ctx context.Context, from *repository.Repository, image repository.Image, provider providers.Provider, snapshot providers.Snapshot) error {
	other, _, err := func() (repository.Image, repository.ImageStats, error) {
		captured, err := BlockCapture{Provider: provider, Snapshot: snapshot, Repository: from, Name: snapshot.ID, Progress: silent{}}.Capture(ctx)
		return captured.Image, captured.Stats, err
	}()
	if err != nil {
		return err
	}
	if other.Digest != image.Digest {
		return fault.Newf("compare volume", fault.Corrupt, snapshot.VolumeID, "its content has the digest %s, the recovery point's image %s", other.Digest, image.Digest)
	}
	return nil
}

type silent struct{}

func (silent) Total(int64, int64) {}
func (silent) Add(int64, int64)   {}
func (silent) Status(string)      {}
