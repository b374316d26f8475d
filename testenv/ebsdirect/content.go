package ebsdirect

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// BlockSize is that of AWS, in bytes.
const BlockSize = 512 << 10

// blocks are the written blocks of an image; a slice in it is never changed.
type blocks map[int32][]byte

// State is a snapshot's.
type State string

// The states of a snapshot.
const (
	Pending   State = "pending"
	Completed State = "completed"
	Failed    State = "error"
)

type volume struct {
	blocks  blocks
	lineage string
}

type snapshot struct {
	blocks   blocks
	lineage  string
	region   string
	gib      int64
	state    State
	started  time.Time
	polls    int // times that EC2 goes on calling it pending
	request  string
	modified bool // by PutSnapshotBlock: checksums count
}

// Content is all volumes and snapshots. Every method may be called by several goroutines at once.
type Content struct {
	mu        sync.Mutex
	volumes   map[string]*volume
	snapshots map[string]*snapshot
	tokens    map[string]string // client token → snapshot
	epoch     int               // block tokens of an earlier one have expired
	settle    int
}

// NewContent is empty.
func NewContent() *Content {
	c := &Content{}
	c.Reset()
	return c
}

// Reset forgets all.
func (c *Content) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.volumes, c.snapshots, c.tokens, c.settle = map[string]*volume{}, map[string]*snapshot{}, map[string]string{}, 0
	c.epoch++
}

// Settle sets how often a snapshot that is made later is described as pending before it is completed.
func (c *Content) Settle(polls int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle = polls
}

// ExpireTokens lets all block tokens expire.
func (c *Content) ExpireTokens() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
}

// WriteVolume changes a volume as its machine would.
func (c *Content) WriteVolume(id string, offset int64, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.volume(id)
	for len(data) > 0 {
		index, at := int32(offset/BlockSize), int(offset%BlockSize)
		block := make([]byte, BlockSize)
		copy(block, v.blocks[index])
		n := copy(block[at:], data)
		v.blocks[index] = block
		data, offset = data[n:], offset+int64(n)
	}
}

// ReadVolume is what a volume's machine would read.
func (c *Content) ReadVolume(id string, offset, length int64) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.volume(id).blocks.read(offset, length)
}

// ReadSnapshot is the content of a snapshot, whatever its state.
func (c *Content) ReadSnapshot(id string, offset, length int64) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.snapshots[id]
	if !ok {
		return nil, fmt.Errorf("no snapshot %s", id)
	}
	return s.blocks.read(offset, length), nil
}

func (b blocks) read(offset, length int64) []byte {
	out := make([]byte, 0, length)
	for int64(len(out)) < length {
		index, at := int32((offset+int64(len(out)))/BlockSize), (offset+int64(len(out)))%BlockSize
		n := min(BlockSize-at, length-int64(len(out)))
		if block, ok := b[index]; ok {
			out = append(out, block[at:at+n]...)
		} else {
			out = append(out, make([]byte, n)...)
		}
	}
	return out
}

// volume finds a volume; one that was never written is empty.
func (c *Content) volume(id string) *volume {
	v, ok := c.volumes[id]
	if !ok {
		v = &volume{blocks: blocks{}, lineage: id}
		c.volumes[id] = v
	}
	return v
}

// VolumeFrom gives a new volume the content of a snapshot.
func (c *Content) VolumeFrom(id, snapshot string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.volume(id)
	if s, ok := c.snapshots[snapshot]; ok {
		v.blocks = maps.Clone(s.blocks)
	}
}

// DropVolume forgets a volume.
func (c *Content) DropVolume(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.volumes, id)
}

// Taken is a snapshot to be taken of a volume.
type Taken struct {
	Snapshot, Volume, Region string
	GiB                      int64
}

// Take takes snapshots of volumes, all at one instant.
func (c *Content) Take(now time.Time, all ...Taken) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range all {
		v := c.volume(t.Volume)
		c.snapshots[t.Snapshot] = &snapshot{
			blocks: maps.Clone(v.blocks), lineage: v.lineage, region: t.Region, gib: t.GiB, state: Completed, started: now, polls: c.settle,
		}
	}
}

// Copy gives a new snapshot the content of another; copies of one volume's snapshots have a lineage of
// their own, so that they can be compared with each other.
func (c *Content) Copy(now time.Time, source, copied, region string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.snapshots[source]
	if !ok {
		return
	}
	c.snapshots[copied] = &snapshot{
		blocks: maps.Clone(s.blocks), lineage: s.lineage + "@" + region, region: region, gib: s.gib, state: Completed, started: now, polls: c.settle,
	}
}

// DropSnapshot forgets a snapshot.
func (c *Content) DropSnapshot(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.snapshots, id)
}

// FailSnapshot puts a snapshot into the state error, as AWS does with one that nobody completed in time.
func (c *Content) FailSnapshot(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.snapshots[id]; ok {
		s.state = Failed
	}
}

// Describe is what EC2 says of a snapshot at this moment; asking brings its completion nearer.
func (c *Content) Describe(id string) (state State, started, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.snapshots[id]
	if !ok {
		return "", false, false
	}
	if s.state == Completed && s.polls > 0 {
		s.polls--
		return Pending, s.request != "", true
	}
	return s.state, s.request != "", true
}

// Started is when a snapshot was taken; zero for one that is not known.
func (c *Content) Started(id string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.snapshots[id]; s != nil {
		return s.started
	}
	return time.Time{}
}

// Snapshots are the IDs of all snapshots of a region.
func (c *Content) Snapshots(region string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for id, s := range c.snapshots {
		if s.region == region {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// changed are the indexes at which two snapshots differ.
func changed(first, second blocks) []int32 {
	var out []int32
	for index, block := range second {
		if other, ok := first[index]; !ok || !bytes.Equal(other, block) {
			out = append(out, index)
		}
	}
	for index := range first {
		if _, ok := second[index]; !ok {
			out = append(out, index)
		}
	}
	slices.Sort(out)
	return out
}

// GiB is a snapshot's size.
func (c *Content) GiB(id string) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.snapshots[id]
	if !ok {
		return 0, fmt.Errorf("no snapshot %s", id)
	}
	return s.gib, nil
}
