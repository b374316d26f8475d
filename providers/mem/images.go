package mem

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"sort"
	"sync"
)

// pageSize is the grain of images, and of changed blocks.
const pageSize = 64 << 10

// page is one page of an image that is not all zeros.
type page struct {
	Index int64  `json:"index"` // in the volume
	Image string `json:"image"` // where its bytes are: this image, or an earlier one
	Slot  int64  `json:"slot"`  // their place there
	Sum   string `json:"sum"`   // of the bytes
}

// table says where the pages of an image are, by ascending index.
type table []page

// at finds a page.
func (t table) at(index int64) (page, bool) {
	i := sort.Search(len(t), func(i int) bool { return t[i].Index >= index })
	if i == len(t) || t[i].Index != index {
		return page{}, false
	}
	return t[i], true
}

// images keeps images. An image never changes.
type images interface {
	// create starts an image; the caller holds the lock of the state.
	create() (imageDraft, error)
	table(id string) (table, error)
	read(p page, into []byte) error
	// sweep removes the images that are not used, nor hold pages of used ones.
	sweep(used map[string]bool) error
}

// imageDraft is an image that is being written.
type imageDraft interface {
	id() string
	// add keeps a page's bytes and returns their slot.
	add(data []byte) (int64, error)
	// seal makes the image durable; keep, called when something refers to it, or discard end the draft.
	seal(t table) error
	keep()
	discard()
}

func sumOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:12])
}

// tableOf is the table of an image; the empty name is that of zeros alone.
func (b *Backend) tableOf(image string) (table, error) {
	if image == "" {
		return nil, nil
	}
	return b.images.table(image)
}

// newImage starts an image outside of a transaction.
func (b *Backend) newImage(ctx context.Context) (imageDraft, error) {
	unlock, err := b.keeper.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return b.images.create()
}

// overlay is a volume's image with some bytes replaced. The caller holds the lock of the state.
func (b *Backend) overlay(v *volume, offset int64, data []byte) (string, error) {
	old, err := b.tableOf(v.Image)
	if err != nil {
		return "", err
	}
	draft, err := b.images.create()
	if err != nil {
		return "", err
	}
	fresh, err := b.overlaid(draft, old, offset, data)
	if err == nil {
		err = draft.seal(fresh)
	}
	if err != nil {
		draft.discard()
		return "", err
	}
	draft.keep()
	return draft.id(), nil
}

func (b *Backend) overlaid(draft imageDraft, old table, offset int64, data []byte) (table, error) {
	first, last := offset/pageSize, (offset+int64(len(data))-1)/pageSize
	fresh := slices.DeleteFunc(slices.Clone(old), func(p page) bool { return p.Index >= first && p.Index <= last })
	for index := first; index <= last; index++ {
		content := make([]byte, pageSize)
		if p, found := old.at(index); found {
			if err := b.images.read(p, content); err != nil {
				return nil, err
			}
		}
		from := max(offset, index*pageSize)
		copy(content[from-index*pageSize:], data[from-offset:])
		if zeros(content) {
			continue
		}
		slot, err := draft.add(content)
		if err != nil {
			return nil, err
		}
		fresh = append(fresh, page{Index: index, Image: draft.id(), Slot: slot, Sum: sumOf(content)})
	}
	slices.SortFunc(fresh, func(a, b page) int { return int(a.Index - b.Index) })
	return fresh, nil
}

func zeros(data []byte) bool {
	for _, b := range data {
		if b != 0 {
			return false
		}
	}
	return true
}

// needed adds to used the images that hold pages of used ones.
func needed(used map[string]bool, tableOf func(string) (table, error)) (map[string]bool, error) {
	all := map[string]bool{}
	for id := range used {
		if id == "" {
			continue
		}
		all[id] = true
		t, err := tableOf(id)
		if err != nil {
			return nil, err
		}
		for _, p := range t {
			all[p.Image] = true
		}
	}
	return all, nil
}

// memoryImages keeps images in memory.
type memoryImages struct {
	mu  sync.Mutex
	all map[string]*memoryImage
}

type memoryImage struct {
	in    *memoryImages
	name  string
	pages [][]byte
	index table
	draft bool
}

func (m *memoryImages) create() (imageDraft, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	image := &memoryImage{in: m, name: random(), draft: true}
	m.all[image.name] = image
	return image, nil
}

func (m *memoryImages) table(id string) (table, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	image, found := m.all[id]
	if !found {
		return nil, gone("read image", id)
	}
	return image.index, nil
}

func (m *memoryImages) read(p page, into []byte) error {
	m.mu.Lock()
	image, found := m.all[p.Image]
	m.mu.Unlock()
	if !found {
		return gone("read image", p.Image)
	}
	copy(into, image.pages[p.Slot])
	return nil
}

func (m *memoryImages) sweep(used map[string]bool) error {
	all, err := needed(used, m.table)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, image := range m.all {
		if !all[id] && !image.draft {
			delete(m.all, id)
		}
	}
	return nil
}

func (i *memoryImage) id() string { return i.name }

func (i *memoryImage) add(data []byte) (int64, error) {
	i.pages = append(i.pages, slices.Clone(data))
	return int64(len(i.pages) - 1), nil
}

func (i *memoryImage) seal(t table) error {
	i.in.mu.Lock()
	defer i.in.mu.Unlock()
	i.index = t
	return nil
}

func (i *memoryImage) keep() {
	i.in.mu.Lock()
	defer i.in.mu.Unlock()
	i.draft = false
}

func (i *memoryImage) discard() {
	i.in.mu.Lock()
	defer i.in.mu.Unlock()
	delete(i.in.all, i.name)
}
