package mem

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/musterdr/muster/providers"
)

// Extents implements providers.Provider.
func (f *faulty) Extents(ctx context.Context, request providers.ExtentsRequest, each func([]providers.Extent) error) error {
	needs := providers.CapRead
	if !request.Base.IsZero() {
		needs = providers.CapChanged
	}
	return stream(ctx, f, "Extents", needs, each, func(c *troubled, each func([]providers.Extent) error) error {
		return f.inner.Extents(ctx, request, func(all []providers.Extent) error { return each(c.extents(all)) })
	})
}

// extents are those of the call, or lies.
func (c *troubled) extents(all []providers.Extent) []providers.Extent {
	all = slices.Clone(all)
	if c.corrupt(CorruptShort) {
		all = all[:len(all)-1]
	}
	if c.corrupt(CorruptOrder) {
		slices.Reverse(all)
	}
	if c.corrupt(CorruptSize) {
		all = append(all, providers.Extent{Offset: 1 << 60, Length: pageSize})
	}
	return all
}

// Read implements providers.Provider.
func (f *faulty) Read(ctx context.Context, request providers.ReadRequest, each func(providers.Block) error) error {
	return stream(ctx, f, "Read", providers.CapRead, each, func(c *troubled, each func(providers.Block) error) error {
		if c.corrupt(CorruptFlood) {
			return c.flood(each)
		}
		lies := &lies{of: c}
		give := func(all []providers.Block) error {
			for _, b := range all {
				if err := each(b); err != nil {
					return err
				}
			}
			return nil
		}
		if err := f.inner.Read(ctx, request, func(b providers.Block) error { return give(lies.next(b)) }); err != nil {
			return err
		}
		return give(lies.end())
	})
}

// flood sends blocks larger than allowed until somebody has enough.
func (c *troubled) flood(each func(providers.Block) error) error {
	data := make([]byte, 2*providers.MaxBlock)
	data[0] = 1
	for offset := int64(0); c.ctx.Err() == nil; offset += int64(len(data)) {
		if err := each(providers.NewBlock(offset, data)); err != nil {
			return err
		}
	}
	return ended(c.ctx, c.name)
}

// Write implements providers.Provider.
func (f *faulty) Write(ctx context.Context, request providers.WriteRequest, source providers.Source) (providers.Volume, error) {
	needs := providers.CapWrite
	if !request.Into.IsZero() && slices.Contains(f.without, providers.CapOverwrite) {
		needs = providers.CapOverwrite
	}
	return f.oneVolume(ctx, "Write", needs, func(c *troubled) (providers.Volume, error) {
		return f.inner.Write(ctx, request, c.lying(source))
	})
}

// lying is a source that lies, or strikes after its first block.
func (c *troubled) lying(source providers.Source) providers.Source {
	lies, ready, given, over := &lies{of: c}, []providers.Block(nil), 0, false
	return func() (providers.Block, error) {
		if given == 1 {
			if err := c.strike(AtMiddle); err != nil {
				return providers.Block{}, err
			}
		}
		for len(ready) == 0 && !over {
			b, err := source()
			switch {
			case err == nil:
				ready = lies.next(b)
			case errors.Is(err, io.EOF):
				ready, over = lies.end(), true
			default:
				return providers.Block{}, err
			}
		}
		if len(ready) == 0 {
			return providers.Block{}, io.EOF
		}
		next := ready[0]
		ready, given = ready[1:], given+1
		return next, nil
	}
}

// lies are what becomes of one stream of blocks.
type lies struct {
	of   *troubled
	told bool
	held []providers.Block
}

// next takes a block and returns those that go on.
func (l *lies) next(b providers.Block) []providers.Block {
	switch {
	case l.of.corrupt(CorruptShort):
		before := l.held
		l.held = []providers.Block{clone(b)}
		return before
	case l.of.corrupt(CorruptOrder) && !l.told && len(l.held) == 0:
		l.held = []providers.Block{clone(b)}
		return nil
	case l.of.corrupt(CorruptOrder) && !l.told:
		l.told = true
		return []providers.Block{b, l.held[0]}
	case b.Zero || l.told:
	case l.of.corrupt(CorruptCRC):
		l.told = true
		b.CRC ^= 1
	case l.of.corrupt(CorruptData):
		l.told = true
		b = clone(b)
		b.Data[len(b.Data)/2] ^= 4
		b.CRC = providers.Sum(b.Data)
	}
	return []providers.Block{b}
}

// end returns what was held back, unless that is the lie.
func (l *lies) end() []providers.Block {
	if l.told || l.of.corrupt(CorruptShort) {
		return nil
	}
	return l.held
}

func clone(b providers.Block) providers.Block {
	b.Data = slices.Clone(b.Data)
	return b
}
