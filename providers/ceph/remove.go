//go:build cgo && ceph

package ceph

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// patience is how long a deletion waits for others to let go of an image: a client that died is seen as
// using it for 30 seconds, unless it was fenced.
const patience = 45 * time.Second

// trash is the object that lists a pool's images in the trash.
const trash = "rbd_trash"

// remove removes an image that Muster made and marked as doomed, or never completed. It survives a death at
// any instruction when it is repeated: librbd moves the image to the trash, deletes its data, its header and
// at last its entry in the trash; each of these states, and those of an image that was never made whole, are
// recognised and completed.
func (c *cluster) remove(ctx context.Context, at place) error {
	io, err := c.pool(at.Pool, at.Namespace)
	if err != nil {
		return err
	}
	defer io.Destroy()
	return c.insist(ctx, "delete "+at.String(), func() error { return c.removeOnce(io, at) })
}

func (c *cluster) removeOnce(io *rados.IOContext, at place) error {
	if at.ID == "" {
		at.ID = c.idOf(io, at.Image)
	}
	if err := gone(rbd.RemoveImage(io, at.Image)); err != nil {
		return err
	}
	if at.ID != "" {
		if err := gone(rbd.TrashRemove(io, at.ID, true)); err != nil {
			return err
		}
		if _, err := io.Stat("rbd_header." + at.ID); err == nil {
			return fault.Newf("delete image", fault.NoSpace, at.String(), "the pool has no trash, and no room to make one: raise its quota")
		}
	}
	return c.erase(io, at)
}

// traces reports whether a name is in use by anything: an image, or what is left of one.
func (c *cluster) traces(io *rados.IOContext, at place) (bool, error) {
	if c.idOf(io, at.Image) != "" {
		return true, nil
	}
	_, err := io.Stat("rbd_id." + at.Image)
	return err == nil, gone(err)
}

// idOf reads the ID behind a name where the image cannot be opened.
func (c *cluster) idOf(io *rados.IOContext, image string) string {
	values, err := io.GetOmapValues("rbd_directory", "", "name_"+image, 1)
	if raw := values["name_"+image]; err == nil && len(raw) > 4 {
		return string(raw[4:])
	}
	return ""
}

// erase removes what librbd leaves of an image whose creation or removal was cut off: the object that
// holds its ID, and its name in the directory.
func (c *cluster) erase(io *rados.IOContext, at place) error {
	if err := gone(io.Delete("rbd_id." + at.Image)); err != nil {
		return err
	}
	id := c.idOf(io, at.Image)
	if id == "" {
		return nil
	}
	op := rados.CreateWriteOp()
	defer op.Release()
	op.Exec("rbd", "dir_remove_image", append(encode(at.Image), encode(id)...))
	return gone(op.Operate(io, "rbd_directory", rados.OperationNoFlag))
}

// release gives this client up when it has an image locked itself: a call of its own could not let go of it while the
// cluster did not answer. Such a lock lasts as long as its client, and nobody can delete the image.
func (c *cluster) release(op string, io *rados.IOContext, at place) error {
	i, err := rbd.OpenImageReadOnly(io, at.Image, rbd.NoSnapshot)
	if err != nil {
		return nil //nolint:nilerr // one that cannot be opened is removed in other ways
	}
	defer i.Close()
	_, lockers, err := i.ListLockers()
	if err != nil {
		return err
	}
	own, err := c.self()
	if err != nil || !slices.ContainsFunc(lockers, func(l rbd.Locker) bool { return l.Client == own }) {
		return err
	}
	if err := c.giveUp(); err != nil {
		return err
	}
	return fault.Newf(op, fault.Transient, at.String(), "an earlier call could not let go of the image while the cluster did not answer; repeat this one")
}

// encode is a string as Ceph writes it.
func encode(text string) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(text))), text...)
}

// others are the addresses of the clients that have an image open for writing, but for this one.
func (c *cluster) others(i *rbd.Image) ([]string, error) {
	conn, err := c.connection()
	if err != nil {
		return nil, err
	}
	own, err := conn.GetAddrs()
	if err != nil {
		return nil, err
	}
	watchers, err := i.ListWatchers()
	if err != nil {
		return nil, err
	}
	var others []string
	for _, w := range watchers {
		if !strings.Contains(own, w.Addr) {
			others = append(others, w.Addr)
		}
	}
	return others, nil
}

// block puts a client on the cluster's block list.
func (c *cluster) block(address string) error {
	conn, err := c.connection()
	if err != nil {
		return err
	}
	return block(conn, address)
}

func block(conn *rados.Conn, address string) error {
	command, err := json.Marshal(map[string]any{"prefix": "osd blocklist", "blocklistop": "add", "addr": address})
	if err != nil {
		return err
	}
	_, _, err = conn.MonCommand(command)
	return err
}

// insist repeats what is busy, reports that it waits, and gives up in the end.
func (c *cluster) insist(ctx context.Context, what string, try func() error) error {
	const pause = 250 * time.Millisecond
	for waited := time.Duration(0); ; waited += pause {
		err := c.note(try())
		if kindOf(err) != fault.Busy || waited >= patience {
			return err
		}
		providers.Report(ctx, providers.Progress{Done: int64(waited.Seconds()), Total: int64(patience.Seconds()), Text: what + ": in use, waiting"})
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}
