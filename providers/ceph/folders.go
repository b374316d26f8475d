//go:build cgo && ceph

package ceph

import (
	"context"
	"path"
	"strconv"
	"strings"

	"github.com/ceph/go-ceph/cephfs"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// subvolumes is where ceph-csi and `ceph fs subvolume` keep volumes: /volumes/GROUP/NAME/UUID.
const subvolumes = "/volumes"

// filesystemParameter is the only parameter of folders; a folder's size is its quota.
const filesystemParameter = "filesystem"

// snapshotRoot is the folder that a volume's snapshots are taken of: CephFS takes none below a subvolume's.
func (p *Provider) snapshotRoot(folder string) string {
	if strings.HasPrefix(folder, p.settings.VolumeFolder+"/") {
		return folder
	}
	parts := strings.Split(strings.TrimPrefix(folder, "/"), "/")
	if strings.HasPrefix(folder, subvolumes+"/") && len(parts) == 4 {
		return path.Dir(folder)
	}
	return folder
}

// discoverFiles tells the volumes of all filesystems: subvolumes, and what Muster made.
func (p *Provider) discoverFiles(ctx context.Context, query providers.Query, each func(providers.Volume) error) error {
	return p.eachFolder(ctx, func(f *filesystem, at place) error {
		v, why, err := p.describeFolder(f, at)
		if err != nil {
			return gone(err)
		}
		_, all := query.Tags[TagState]
		if (why != "") != all || !matches(query, v.Tags, v.ID) {
			return nil
		}
		return each(v)
	})
}

// eachFolder calls see with the folder of every volume.
func (p *Provider) eachFolder(ctx context.Context, see func(*filesystem, place) error) error {
	for _, fs := range p.settings.Filesystems {
		f, err := p.filesystem(fs)
		if err != nil {
			return err
		}
		all, err := p.volumeFolders(f)
		if err != nil {
			return wrap("list folders", fs, p.here.note(err))
		}
		for _, folder := range all {
			if err := ctx.Err(); err != nil {
				return wrap("list folders", fs, err)
			}
			if err := see(f, place{FSID: p.here.fsid, FS: fs, Path: folder}); err != nil {
				return wrap("list folders", fs+":"+folder, p.here.note(err))
			}
		}
	}
	return nil
}

func (p *Provider) volumeFolders(f *filesystem) ([]string, error) {
	var all []string
	own, err := f.folders(p.settings.VolumeFolder)
	if err != nil {
		return nil, err
	}
	for _, name := range own {
		all = append(all, path.Join(p.settings.VolumeFolder, name))
	}
	groups, err := f.folders(subvolumes)
	if err != nil {
		return nil, err
	}
	for _, group := range groups {
		within := path.Join(subvolumes, group)
		if within == p.settings.VolumeFolder || group != "_nogroup" && strings.HasPrefix(group, "_") {
			continue
		}
		names, err := f.folders(within)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			data, err := f.folders(path.Join(within, name))
			if err != nil {
				return nil, err
			}
			for _, inner := range data {
				all = append(all, path.Join(within, name, inner))
			}
		}
	}
	return all, nil
}

// describeFolder is a folder as a volume, and why it isn't one yet.
func (p *Provider) describeFolder(f *filesystem, at place) (providers.Volume, string, error) {
	v := providers.Volume{
		Handle: handleOf(at), ID: at.String(), Content: providers.ContentFiles,
		Parameters: map[string]string{filesystemParameter: at.FS},
	}
	if _, err := f.mount.Statx(at.Path, cephfs.StatxBasicStats, 0); err != nil {
		return v, "", err
	}
	m, err := f.mark(at.Path, folderMark)
	if err != nil {
		return v, "", err
	}
	if v.Size, err = f.number(at.Path, maxBytes); err != nil {
		return v, "", err
	}
	if v.Size == 0 && p.snapshotRoot(at.Path) != at.Path {
		if v.Size, err = f.number(p.snapshotRoot(at.Path), maxBytes); err != nil {
			return v, "", err
		}
	}
	if v.Used, err = f.number(at.Path, "ceph.dir.rbytes"); err != nil {
		return v, "", err
	}
	if m == nil {
		return v, "", nil
	}
	v.Tags = m.Tags
	why := marks{volume: &m.mark}.unfinished()
	if why != "" {
		v.Tags[TagState] = string(m.State)
	}
	return v, why, nil
}

func (p *Provider) folderVolume(ctx context.Context, op string, at place) (providers.Volume, error) {
	var v providers.Volume
	err := bounded(ctx, op, func(context.Context) error {
		f, err := p.allowedFS(op, at)
		if err != nil {
			return err
		}
		var why string
		if v, why, err = p.describeFolder(f, at); err != nil {
			return wrap(op, at.String(), p.here.note(err))
		}
		if v.Tags[TagState] == string(deleting) {
			return fault.Newf(op, fault.NotFound, at.String(), "%s", why)
		}
		if why != "" {
			return fault.Newf(op, fault.Busy, at.String(), "%s", why)
		}
		return nil
	})
	return v, err
}

// createFolder makes a volume: a folder with a quota, empty or with a snapshot's files.
func (p *Provider) createFolder(ctx context.Context, op string, r providers.CreateRequest) (providers.Volume, error) {
	at, source, err := p.folderRequest(op, r)
	if err != nil {
		return providers.Volume{}, err
	}
	m := mark{Token: r.Token, Request: digest(r), State: writing, Tags: tagged(r.Tags, r.Token)}
	var v providers.Volume
	err = p.onFolder(ctx, op, at, at.Path, func(ctx context.Context, f *filesystem) error {
		old, err := f.mark(at.Path, folderMark)
		if gone(err) != nil {
			return err
		}
		if old != nil && (old.Token != m.Token || old.Request != m.Request) && old.State != deleting {
			return fault.Newf(op, fault.Exists, at.String(), "the token was used for a different request")
		}
		if old == nil || old.State != complete {
			size, err := p.grown(op, f, source, r.Size)
			if err != nil {
				return err
			}
			if err := p.fillFolder(ctx, op, f, at, size, source, m); err != nil {
				return err
			}
		}
		v, _, err = p.describeFolder(f, at)
		return err
	})
	return v, err
}

func (p *Provider) folderRequest(op string, r providers.CreateRequest) (place, moment, error) {
	var source moment
	if p.here == nil || len(p.settings.Filesystems) == 0 {
		return place{}, source, fault.Newf(op, fault.Unsupported, name, "the settings name no filesystems")
	}
	at := place{FSID: p.here.fsid, FS: p.settings.Filesystems[0], Path: path.Join(p.settings.VolumeFolder, nameOf(r.Name, r.Token))}
	if !r.Snapshot.IsZero() {
		var err error
		if source, err = readSnapshot(op, r.Snapshot); err != nil {
			return at, source, err
		}
		if source.FS == "" {
			return at, source, fault.Newf(op, fault.Invalid, source.String(), "the snapshot holds blocks, and the volume is to hold files")
		}
		at.FS = source.FS
	}
	for key, value := range r.Parameters {
		if key != filesystemParameter {
			return at, source, fault.Newf(op, fault.Invalid, key, "no such parameter; a volume of files has %q", filesystemParameter)
		}
		if source.FS != "" && source.FS != value {
			return at, source, fault.Newf(op, fault.Unsupported, value, "the snapshot is in the filesystem %s: capture its files and restore them", source.FS)
		}
		at.FS = value
	}
	return at, source, nil
}

// grown is the size of a volume that is made with a snapshot's files: the snapshot's when none is asked for.
func (p *Provider) grown(op string, f *filesystem, source moment, size int64) (int64, error) {
	if source.Snap == "" {
		return size, nil
	}
	s, err := p.describeFolderSnapshot(f, source)
	if err != nil {
		return 0, err
	}
	if size != 0 && size < s.Size {
		return 0, fault.Newf(op, fault.Invalid, source.String(), "the snapshot has %d bytes, which is more than %d", s.Size, size)
	}
	return max(size, s.Size), nil
}

// fillFolder makes the folder anew; the mark says when it is whole.
func (p *Provider) fillFolder(ctx context.Context, op string, f *filesystem, at place, size int64, source moment, m mark) error {
	if err := f.removeAll(ctx, at.Path); err != nil {
		return err
	}
	if err := f.mount.MakeDirs(at.Path, 0o755); err != nil {
		return err
	}
	if err := f.setMark(at.Path, folderMark, m); err != nil {
		return err
	}
	if err := f.mount.Chmod(at.Path, 0o777); err != nil { // as ceph-csi does: the kubelet sets the owner
		return err
	}
	if source.Snap != "" {
		if err := p.copyFolder(ctx, op, source, at); err != nil {
			return err
		}
	}
	if size > 0 {
		if err := f.mount.SetXattr(at.Path, maxBytes, []byte(strconv.FormatInt(size, 10)), cephfs.XattrDefault); err != nil {
			return err
		}
	}
	m.State = complete
	return f.setMark(at.Path, folderMark, m)
}

func (p *Provider) deleteFolder(ctx context.Context, op string, at place) error {
	err := p.onFolder(ctx, op, at, at.Path, func(ctx context.Context, f *filesystem) error {
		m, err := f.mark(at.Path, folderMark)
		if err != nil {
			return gone(err)
		}
		if m == nil && (!strings.HasPrefix(at.Path, p.settings.VolumeFolder+"/") || !ownName.MatchString(at.Path)) {
			if _, err := f.mount.Statx(at.Path, cephfs.StatxBasicStats, 0); err != nil {
				return gone(err)
			}
			return fault.Newf(op, fault.Denied, at.String(), "Muster did not make this volume")
		}
		snapshots, err := f.folders(path.Join(at.Path, ".snap"))
		if err != nil {
			return err
		}
		for _, name := range snapshots {
			if !strings.HasPrefix(name, "_") { // such a one is of a folder above
				return fault.Newf(op, fault.Busy, at.String(), "it has the snapshot %s: delete it first", name)
			}
		}
		if m != nil && m.State != deleting {
			m.State = deleting
			if err := f.setMark(at.Path, folderMark, m); err != nil {
				return err
			}
		}
		return f.removeAll(ctx, at.Path)
	})
	if fault.Is(err, fault.NotFound) {
		return nil // of a cluster that is gone
	}
	return err
}
