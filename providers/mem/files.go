package mem

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Attach implements providers.Provider. The folder is the volume's tree itself.
func (p *provider) Attach(ctx context.Context, request providers.AttachRequest) (providers.Attachment, error) {
	const op = "attach volume"
	b, err := p.ready(op)
	if err != nil {
		return providers.Attachment{}, err
	}
	if request.Token == "" || request.Volume.IsZero() == request.Snapshot.IsZero() {
		return providers.Attachment{}, fault.Newf(op, fault.Invalid, request.Token, "it takes a token, and a volume or a snapshot")
	}
	m := &mount{made: by(request.Token, request), ID: "mount-" + random()}
	found, err := b.findMount(ctx, op, m.made)
	if err != nil {
		return providers.Attachment{}, err
	}
	if found != nil {
		return b.attachment(found), nil
	}
	if request.Volume.IsZero() {
		err = b.prepareSnapshot(ctx, op, request.Snapshot, m)
	} else {
		err = b.prepareVolume(ctx, op, request.Volume, m)
	}
	if err != nil {
		return providers.Attachment{}, err
	}
	return b.attachment(m), nil
}

func (b *Backend) attachment(m *mount) providers.Attachment {
	return providers.Attachment{Handle: handle("mount", m.ID), Path: b.pathOf(m.Tree), Mark: m.Mark, Instant: m.Instant}
}

func (b *Backend) findMount(ctx context.Context, op string, by made) (*mount, error) {
	var s state
	if err := b.view(ctx, &s); err != nil {
		return nil, err
	}
	return s.findMount(op, by)
}

func (s *state) findMount(op string, by made) (*mount, error) {
	for _, m := range s.Mounts {
		if same, err := m.same(op, by); same || err != nil {
			return m, err
		}
	}
	return nil, nil
}

func (b *Backend) prepareSnapshot(ctx context.Context, op string, h providers.Handle, m *mount) error {
	n, err := b.snapshotOf(ctx, op, h)
	if err != nil {
		return err
	}
	if n.Content != providers.ContentFiles {
		return fault.Newf(op, fault.Unsupported, n.ID, "it holds blocks: read them")
	}
	m.Tree, m.Mark, m.Instant = n.Tree, n.Mark, n.Instant
	return b.insertMount(ctx, op, m, func(s *state) bool { return s.Snapshots[n.ID] != nil }, nil)
}

// prepareVolume marks the volume as it is now.
func (b *Backend) prepareVolume(ctx context.Context, op string, h providers.Handle, m *mount) error {
	id, err := identify(op, "volume", h)
	if err != nil {
		return err
	}
	var s state
	if err := b.view(ctx, &s); err != nil {
		return err
	}
	v := s.Volumes[id]
	if v == nil {
		return gone(op, id)
	}
	if v.Content != providers.ContentFiles {
		return fault.Newf(op, fault.Unsupported, id, "it holds blocks: a snapshot of it can be read")
	}
	folders, err := digests(ctx, b.pathOf(v.Tree))
	if err != nil {
		return err
	}
	m.Tree, m.Mark = v.Tree, "mark-"+m.ID
	return b.insertMount(ctx, op, m, func(s *state) bool { return s.Volumes[id] != nil }, &mark{Volume: id, Folders: folders})
}

func (b *Backend) insertMount(ctx context.Context, op string, m *mount, there func(*state) bool, fresh *mark) error {
	return b.update(ctx, func(s *state) error {
		found, err := s.findMount(op, m.made)
		if err != nil {
			return err
		}
		if found != nil {
			*m = *found
			return errUnchanged
		}
		if !there(s) {
			return gone(op, m.Tree)
		}
		s.Mounts[m.ID] = m
		if fresh != nil {
			s.Marks[m.Mark] = fresh
		}
		return nil
	})
}

// Detach implements providers.Provider.
func (p *provider) Detach(ctx context.Context, attachment providers.Handle) error {
	const op = "detach volume"
	b, err := p.ready(op)
	if err != nil {
		return err
	}
	id, err := identify(op, "mount", attachment)
	if err != nil {
		return err
	}
	return b.update(ctx, func(s *state) error {
		if s.Mounts[id] == nil {
			return errUnchanged
		}
		delete(s.Mounts, id)
		return b.sweep(s)
	})
}

// Changes implements providers.Provider.
func (p *provider) Changes(ctx context.Context, request providers.ChangesRequest, each func([]string) error) error {
	const op = "list changed files"
	b, err := p.ready(op)
	if err != nil {
		return err
	}
	id, err := identify(op, "volume", request.Volume)
	if err != nil {
		return err
	}
	var s state
	if err := b.view(ctx, &s); err != nil {
		return err
	}
	since, until := s.Marks[request.Since], s.Marks[request.Until]
	if since == nil || until == nil {
		return gone(op, request.Since+" or "+request.Until)
	}
	if since.Volume != id || until.Volume != id {
		return fault.Newf(op, fault.Invalid, id, "the marks are of another volume")
	}
	var changed []string
	for _, folder := range slices.Sorted(maps.Keys(until.Folders)) {
		if since.Folders[folder] != until.Folders[folder] {
			changed = append(changed, folder)
		}
	}
	if len(changed) == 0 {
		return nil
	}
	return each(changed)
}

// Tree is the folder of a file volume, for whoever writes into it as an application does.
func (b *Backend) Tree(ctx context.Context, id string) (string, error) {
	var s state
	if err := b.view(ctx, &s); err != nil {
		return "", err
	}
	v := s.Volumes[id]
	if v == nil || v.Tree == "" {
		return "", gone("find tree", id)
	}
	path := b.pathOf(v.Tree)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", gone("find tree", id)
	}
	return path, nil
}
