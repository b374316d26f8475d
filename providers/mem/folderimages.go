package mem

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/musterdr/muster/providers/fault"
)

// folderImages keeps each image in a folder: its pages one after the other, and its table.
type folderImages struct{ shelf }

type folderDraft struct {
	*draft
	pages *os.File
	count int64
}

func (f *folderImages) create() (imageDraft, error) {
	d, err := f.draft()
	if err != nil {
		return nil, err
	}
	pages, err := os.OpenFile(filepath.Join(d.path, "pages"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		d.discard()
		return nil, broken("write image", d.path, err)
	}
	return &folderDraft{draft: d, pages: pages}, nil
}

func (f *folderImages) table(id string) (table, error) {
	path := filepath.Join(f.dir, id, "table.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, broken("read image", path, err)
	}
	var t table
	if err := json.Unmarshal(raw, &t); err != nil {
		return nil, fault.New("read image", fault.Corrupt, path, err)
	}
	return t, nil
}

func (f *folderImages) read(p page, into []byte) error {
	path := filepath.Join(f.dir, p.Image, "pages")
	file, err := os.Open(path)
	if err != nil {
		return broken("read image", path, err)
	}
	defer file.Close()
	if _, err := file.ReadAt(into[:pageSize], p.Slot*pageSize); err != nil {
		return broken("read image", path, err)
	}
	return nil
}

func (f *folderImages) sweep(used map[string]bool) error {
	all, err := needed(used, f.table)
	if err != nil {
		return err
	}
	return f.shelf.sweep(all)
}

func (d *folderDraft) id() string { return d.draft.id }

func (d *folderDraft) add(data []byte) (int64, error) {
	if _, err := d.pages.Write(data); err != nil {
		return 0, broken("write image", d.path, err)
	}
	d.count++
	return d.count - 1, nil
}

func (d *folderDraft) seal(t table) error {
	err := d.pages.Sync()
	if closing := d.pages.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return broken("write image", d.path, err)
	}
	raw, err := json.Marshal(t)
	if err != nil {
		return fault.New("write image", fault.Internal, d.path, err)
	}
	if err := writeDurably(filepath.Join(d.path, "table.json"), raw); err != nil {
		return broken("write image", d.path, err)
	}
	return nil
}

func (d *folderDraft) discard() {
	_ = d.pages.Close()
	d.draft.discard()
}
