package gluster

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// Create implements providers.Volumes. The volume's name derives from the token. What a call that died has
// left is completed: folders, the volume, its options, its start, its quota, in this order.
func (p *provider) Create(ctx context.Context, request providers.CreateRequest) (providers.Volume, error) {
	const op = "create volume"
	pool, err := p.ready(op)
	if err != nil {
		return providers.Volume{}, err
	}
	if request.Token == "" || request.Size < 0 {
		return providers.Volume{}, fault.Newf(op, fault.Invalid, request.Name, "it takes a token, and a size of 0 or more")
	}
	if request.Content != providers.ContentFiles {
		return providers.Volume{}, fault.Newf(op, fault.Unsupported, request.Name, "Gluster volumes hold files, not %s", request.Content)
	}
	if len(pool.settings.Bricks) == 0 {
		return providers.Volume{}, fault.Newf(op, fault.Unsupported, request.Name, "the provider's settings name no bricks: without them it makes no volumes")
	}
	if !request.Snapshot.IsZero() {
		if _, err := p.snapshots(op); err != nil {
			return providers.Volume{}, err
		}
	}
	w, err := wishOf(op, pool.settings, request.Parameters)
	if err != nil {
		return providers.Volume{}, err
	}
	m, err := newMeta(request.Token, request.Tags, request)
	if err != nil {
		return providers.Volume{}, fault.New(op, fault.Internal, request.Name, err)
	}
	// Tokens, not names: a token with another name is a different request.
	release, err := p.locks.take(ctx, op, "create "+request.Token)
	if err != nil {
		return providers.Volume{}, err
	}
	defer release()
	name := nameFor(request.Name, request.Token)
	if err := pool.tokenIsFree(ctx, op, name, m); err != nil {
		return providers.Volume{}, err
	}
	making := making{pool: pool, op: op, name: name, request: request, wish: w, meta: m}
	if !request.Snapshot.IsZero() {
		return making.clone(ctx)
	}
	return making.make(ctx)
}

// tokenIsFree refuses a token that has made a volume of another name.
func (p *pool) tokenIsFree(ctx context.Context, op, name string, m meta) error {
	r, err := p.gluster(ctx, op, name, "volume", "info", "all")
	if err != nil {
		return err
	}
	for _, v := range r.Volumes {
		if v.Name != name && strings.HasSuffix(v.Name, "-muster-"+key(m.Token)) {
			return fault.Newf(op, fault.Exists, v.Name, "the token was used for a different request")
		}
	}
	return nil
}

// making is one volume that comes into being.
type making struct {
	pool    *pool
	op      string
	name    string
	request providers.CreateRequest
	wish    wish
	meta    meta
}

func (m making) make(ctx context.Context) (providers.Volume, error) {
	v, err := m.pool.info(ctx, m.op, m.name)
	fresh := fault.Is(err, fault.NotFound)
	if fresh {
		v, err = m.create(ctx)
	}
	if err != nil {
		return providers.Volume{}, err
	}
	described, err := m.complete(ctx, v)
	if err == nil || !fresh || fault.KindOf(err).Retryable() {
		return described, err
	}
	// It can never be completed: nothing half-made stays.
	return providers.Volume{}, errors.Join(err, m.pool.remove(context.WithoutCancel(ctx), m.op, v))
}

// create makes folders and volume.
func (m making) create(ctx context.Context) (volumeInfo, error) {
	roots, err := place(m.op, m.name, m.pool.settings, m.wish.layout)
	if err != nil {
		return volumeInfo{}, err
	}
	args := append([]string{"volume", "create", m.name}, m.wish.layout.words()...)
	args = append(args, "transport", "tcp")
	for i, root := range roots {
		args = append(args, root.peer.Name+":"+path.Join(root.path, m.name, strconv.Itoa(i)))
	}
	if m.pool.settings.Force {
		args = append(args, "force")
	}
	if err := m.pool.folders(ctx, m.op, m.name, roots, makeFolder); err != nil {
		return volumeInfo{}, err
	}
	_, err = m.pool.gluster(ctx, m.op, m.name, args...)
	if fault.Is(err, fault.Exists) && !strings.Contains(err.Error(), m.name+" already exists") {
		// Bricks that an earlier try marked as part of a volume which then was not made. Their folder carries
		// the token's key, and no volume has its name.
		if v, err := m.pool.info(ctx, m.op, m.name); !fault.Is(err, fault.NotFound) {
			return v, err
		}
		if err := errors.Join(m.pool.folders(ctx, m.op, m.name, roots, removeFolder), m.pool.folders(ctx, m.op, m.name, roots, makeFolder)); err != nil {
			return volumeInfo{}, err
		}
		_, err = m.pool.gluster(ctx, m.op, m.name, args...)
	}
	if err != nil && !fault.Is(err, fault.Exists) { // another process may have been quicker
		if !fault.KindOf(err).Retryable() {
			err = errors.Join(err, m.pool.folders(context.WithoutCancel(ctx), m.op, m.name, roots, removeFolder))
		}
		return volumeInfo{}, err
	}
	return m.pool.info(ctx, m.op, m.name)
}

// What is done with the folder of a volume under a folder for bricks; $1 is the latter, $2 the name. A folder
// for bricks that is missing is a disk that is not mounted.
const (
	makeFolder   = `[ -d "$1" ] || { echo "there is no folder $1: make it, or mount the disk for bricks there" >&2; exit 2; }; mkdir -p -- "$1/$2"`
	removeFolder = `rm -rf -- "$1/$2"`
)

// folders does something with the folder of a volume under each folder for bricks.
func (p *pool) folders(ctx context.Context, op, name string, roots []brickRoot, script string) error {
	var problems []error
	for _, root := range roots {
		s, err := p.shell(op, root.peer.Name)
		if err != nil {
			return err
		}
		out, err := p.on(ctx, s, script, root.path, name)
		if err == nil && out.status != 0 {
			err = refusal(op, root.peer.Name+":"+root.path, out.status, firstLines(out.stderr, out.stdout))
		}
		problems = append(problems, err)
	}
	return errors.Join(problems...)
}

// complete gives a volume everything that the request asks for and it does not have yet.
func (m making) complete(ctx context.Context, v volumeInfo) (providers.Volume, error) {
	// A clone has inherited the mark of its origin, which is of another token.
	if have := v.meta(); have != nil && have.Token == m.meta.Token {
		if err := have.same(m.op, m.name, m.meta); err != nil {
			return providers.Volume{}, err
		}
	}
	if err := m.setOptions(ctx, v); err != nil {
		return providers.Volume{}, err
	}
	if !v.started() {
		_, err := m.pool.gluster(ctx, m.op, m.name, "volume", "start", m.name)
		if err != nil && !strings.Contains(err.Error(), "already started") {
			return providers.Volume{}, err
		}
	}
	if err := m.limit(ctx, v); err != nil {
		return providers.Volume{}, err
	}
	v, err := m.pool.info(ctx, m.op, m.name)
	if err != nil {
		return providers.Volume{}, err
	}
	return m.pool.describe(ctx, m.op, v, nil)
}

// setOptions sets what differs in one command; what marks the volume as ours is among it.
func (m making) setOptions(ctx context.Context, v volumeInfo) error {
	mark, err := m.meta.encode(m.op)
	if err != nil {
		return err
	}
	args := []string{"volume", "set", m.name}
	for _, o := range append([]option{{metaOption, mark}}, m.wish.options...) {
		if o.Name != metaOption && (!keepOption(o.Name) || !m.wish.layout.fits(o.Name)) || v.option(o.Name) == o.Value {
			continue
		}
		args = append(args, o.Name, o.Value)
	}
	if len(args) == 3 {
		return nil
	}
	_, err = m.pool.gluster(ctx, m.op, m.name, args...)
	return err
}

func (m making) limit(ctx context.Context, v volumeInfo) error {
	if m.request.Size == 0 || m.pool.settings.Quota == quotaAsNothing {
		return nil
	}
	if !v.on("features.quota") {
		_, err := m.pool.gluster(ctx, m.op, m.name, "volume", "quota", m.name, "enable")
		if err != nil && !strings.Contains(err.Error(), "already enabled") {
			return err
		}
	} else if size, _, err := m.pool.quota(ctx, m.op, v); err != nil || size == m.request.Size {
		return err
	}
	_, err := m.pool.gluster(ctx, m.op, m.name, "volume", "quota", m.name, "limit-usage", "/", fmt.Sprintf("%dB", m.request.Size))
	return err
}

// DeleteVolume implements providers.Volumes: the volume and the folders of its bricks.
func (p *provider) DeleteVolume(ctx context.Context, h providers.Handle) error {
	const op = "delete volume"
	pool, err := p.ready(op)
	if err != nil {
		return err
	}
	s, err := openVolume(op, h)
	if err != nil {
		return err
	}
	release, err := p.locks.take(ctx, op, "delete "+s.Volume)
	if err != nil {
		return err
	}
	defer release()
	v, err := pool.info(ctx, op, s.Volume)
	switch {
	case fault.Is(err, fault.NotFound):
		if !ours.MatchString(s.Volume) {
			return nil
		}
		return pool.folders(ctx, op, s.Volume, pool.settings.roots(), removeFolder)
	case err != nil:
		return err
	case v.ID != s.ID:
		return nil // ours is gone
	}
	if v.tags()[providers.TagRun] == "" {
		return fault.Newf(op, fault.Denied, v.Name, "Muster did not make it: it has no tag %s", providers.TagRun)
	}
	return pool.remove(ctx, op, v)
}

// remove deletes a volume that Muster made. Its folders go last: a repeated call finds them by the name.
func (p *pool) remove(ctx context.Context, op string, v volumeInfo) error {
	if v.Snapshots > 0 {
		return fault.Newf(op, fault.Busy, v.Name, "it has %d snapshots: delete them first", v.Snapshots)
	}
	if v.started() {
		_, err := p.gluster(ctx, op, v.Name, "volume", "stop", v.Name, "force")
		if err != nil && !strings.Contains(err.Error(), "not in the started state") && !fault.Is(err, fault.NotFound) {
			return err
		}
	}
	if _, err := p.gluster(ctx, op, v.Name, "volume", "delete", v.Name); err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	if !ours.MatchString(v.Name) {
		return nil
	}
	var roots []brickRoot
	for _, root := range p.settings.roots() {
		within := func(b brickInfo) bool {
			host, at := b.split()
			return (host == root.peer.Name || host == root.peer.Address) && strings.HasPrefix(at, root.path+"/"+v.Name+"/")
		}
		if slices.ContainsFunc(v.Bricks, within) {
			roots = append(roots, root)
		}
	}
	return p.folders(ctx, op, v.Name, roots, removeFolder)
}
