package guard

import (
	"context"
	"math"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Extents implements providers.Blocks.
func (g *Guard) Extents(ctx context.Context, request providers.ExtentsRequest, each func([]providers.Extent) error) error {
	const op = "list extents"
	capability := providers.CapRead
	if !request.Base.IsZero() {
		capability = providers.CapChanged
	}
	if err := g.needs(op, capability); err != nil {
		return err
	}
	size, err := g.sizeOf(ctx, request.Snapshot)
	if err != nil {
		return err
	}
	order := &ascending{limit: size, what: "the snapshot"}
	empty := 0
	check := func(extents []providers.Extent) error {
		if len(extents) > providers.MaxExtents {
			return g.lie(op, "%d extents at once; %d are allowed", len(extents), providers.MaxExtents)
		}
		if len(extents) == 0 {
			if empty++; empty > g.config.List {
				return g.lie(op, "lists of nothing, without end")
			}
		}
		for _, e := range extents {
			if problem := order.next(e); problem != "" {
				return g.lie(op, "the extent of %d bytes at %d %s", e.Length, e.Offset, problem)
			}
		}
		return nil
	}
	return list(ctx, g, op, func(ctx context.Context, each func([]providers.Extent) error) error {
		return g.inner.Extents(ctx, request, each)
	}, check, each)
}

func (g *Guard) sizeOf(ctx context.Context, snapshot providers.Handle) (int64, error) {
	if known, ok := g.snapshots.get(snapshot); ok {
		return known.size, nil
	}
	s, err := g.SnapshotOf(ctx, snapshot)
	return s.Size, err
}

// ascending holds extents to their order.
type ascending struct {
	at    int64 // where the last one ended
	limit int64
	what  string // what ends at the limit
}

// next takes an extent and says what is wrong with it.
func (a *ascending) next(e providers.Extent) string {
	switch {
	case e.Offset < 0 || e.Length <= 0 || e.Offset > math.MaxInt64-e.Length:
		return "is none"
	case e.Offset < a.at:
		return "overlaps the one before it, or is out of order"
	case e.End() > a.limit:
		return "ends beyond " + a.what
	}
	a.at = e.End()
	return ""
}

// Read implements providers.Blocks.
func (g *Guard) Read(ctx context.Context, request providers.ReadRequest, each func(providers.Block) error) error {
	const op = "read blocks"
	if err := g.needs(op, providers.CapRead); err != nil {
		return err
	}
	wanted, err := g.wanted(op, request.Extents)
	if err != nil {
		return err
	}
	check := func(b providers.Block) error {
		if problem := wrong(b); problem != "" {
			return g.lie(op, "the block of %d bytes at %d %s", b.Length, b.Offset, problem)
		}
		if !wanted.take(b.Extent) {
			return g.lie(op, "the block of %d bytes at %d is not the one that comes next", b.Length, b.Offset)
		}
		return nil
	}
	err = list(ctx, g, op, func(ctx context.Context, each func(providers.Block) error) error {
		return g.inner.Read(ctx, request, each)
	}, check, each)
	if err == nil && len(wanted.left) > 0 {
		return g.lie(op, "the read is short: nothing from %d on", wanted.left[0].Offset)
	}
	return err
}

// wrong says what is wrong with a block by itself.
func wrong(b providers.Block) string {
	switch {
	case b.Length <= 0:
		return "is none"
	case b.Zero && len(b.Data) > 0:
		return "is called zeros and has data"
	case b.Zero:
		return ""
	case b.Length > providers.MaxBlock || len(b.Data) > providers.MaxBlock:
		return "is larger than allowed"
	case int64(len(b.Data)) != b.Length:
		return "has data of another length"
	case providers.Sum(b.Data) != b.CRC:
		return "does not have its checksum"
	}
	return ""
}

// wanted are the extents that a read still owes.
type wanted struct{ left []providers.Extent }

// wanted checks a request of Muster's own, and joins extents that touch: a block may span both.
func (g *Guard) wanted(op string, extents []providers.Extent) (*wanted, error) {
	if len(extents) > providers.MaxExtents {
		return nil, fault.Newf(op, fault.Invalid, g.info.Name, "%d extents are asked for at once; %d are allowed", len(extents), providers.MaxExtents)
	}
	order := &ascending{limit: math.MaxInt64}
	w := &wanted{}
	for _, e := range extents {
		if problem := order.next(e); problem != "" {
			return nil, fault.Newf(op, fault.Invalid, g.info.Name, "the extent of %d bytes at %d that is asked for %s", e.Length, e.Offset, problem)
		}
		if last := len(w.left) - 1; last >= 0 && w.left[last].End() == e.Offset {
			w.left[last].Length += e.Length
			continue
		}
		w.left = append(w.left, e)
	}
	return w, nil
}

// take takes what comes next off what is owed.
func (w *wanted) take(e providers.Extent) bool {
	if len(w.left) == 0 || e.Offset != w.left[0].Offset || e.Length > w.left[0].Length {
		return false
	}
	w.left[0].Offset += e.Length
	w.left[0].Length -= e.Length
	if w.left[0].Length == 0 {
		w.left = w.left[1:]
	}
	return true
}

// Write implements providers.Blocks.
func (g *Guard) Write(ctx context.Context, request providers.WriteRequest, source providers.Source) (providers.Volume, error) {
	const op = "write blocks"
	if err := g.needs(op, providers.CapWrite); err != nil {
		return providers.Volume{}, err
	}
	if !request.Into.IsZero() {
		if err := g.needs(op, providers.CapOverwrite); err != nil {
			return providers.Volume{}, err
		}
	}
	var v providers.Volume
	err := g.watch(ctx, op, func(ctx context.Context, l *life) (err error) {
		v, err = g.inner.Write(ctx, request, func() (providers.Block, error) {
			resume := l.pause() // it wants more: a sign of life, and our turn
			defer resume()
			return source()
		})
		return err
	})
	if err == nil {
		err = g.checkVolume(op, v)
	}
	if err == nil {
		err = g.checkMade(op, request.CreateRequest, v)
	}
	if err != nil {
		return providers.Volume{}, err
	}
	return v, nil
}
