package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Images for pods, each with everything else that Debian's minimal system has. Only the machines that ask for one
// among their Images have it.
const (
	PostgresImage      = "lab.local/postgres:15"
	PatroniImage       = "lab.local/patroni:3" // which runs PostgreSQL 15
	MariaDBImage       = "lab.local/mariadb:10.11"
	MongoDBImage       = "lab.local/mongodb:ferretdb" // FerretDB, with MongoDB's own tools and shell
	OpenSearchImage    = "lab.local/opensearch:2"
	ElasticsearchImage = "lab.local/elasticsearch:7.10"
)

// podImage tells how an image is made: files/<scripts>-image puts it into a root filesystem, after that of the image that
// it extends, files/<scripts>-entrypoint is what it runs, and the folder that more gives, if there is one, is /opt/<name>
// in it.
type podImage struct {
	name, scripts, title string
	extends              string
	more                 func(ctx context.Context) (string, error)
}

// setups are the scripts that make the root filesystem.
func (p podImage) setups() []string {
	setups := []string{"files/" + p.scripts + "-image"}
	if p.extends != "" {
		setups = append(podImages[p.extends].setups(), setups...)
	}
	return setups
}

var podImages = map[string]podImage{
	PostgresImage:      {name: "postgres", scripts: "postgres", title: "PostgreSQL 15"},
	PatroniImage:       {name: "patroni", scripts: "patroni", title: "Patroni 3", extends: PostgresImage},
	MariaDBImage:       {name: "mariadb", scripts: "mariadb", title: "MariaDB 10.11"},
	MongoDBImage:       {name: "mongodb", scripts: "mongodb", title: "FerretDB and MongoDB's tools", more: MongoDB},
	OpenSearchImage:    {name: "opensearch", scripts: "search", title: "OpenSearch 2", more: func(ctx context.Context) (string, error) { return Jars(ctx, "opensearch") }},
	ElasticsearchImage: {name: "elasticsearch", scripts: "search", title: "Elasticsearch 7.10", more: func(ctx context.Context) (string, error) { return Jars(ctx, "opensearch/elasticsearch") }},
}

// minimal is Debian's minimal system.
func (b *builder) minimal(ctx context.Context) (string, error) {
	return b.make("minimal", "bookworm", "Debian's minimal system", func(dir string) error {
		if err := Install(ctx, "debootstrap"); err != nil {
			return err
		}
		_, err := command(ctx, nil, "debootstrap", "--variant=minbase", "bookworm", filepath.Join(dir, "root"))
		return err
	})
}

// podImage makes an image's tar.
func (b *builder) podImage(ctx context.Context, image string) (string, error) {
	made := podImages[image]
	entrypoint := "files/" + made.scripts + "-entrypoint"
	scripts, err := embedded(append(made.setups(), entrypoint)...)
	if err != nil {
		return "", err
	}
	minimal, err := b.minimal(ctx)
	if err != nil {
		return "", err
	}
	more := ""
	if made.more != nil {
		if more, err = made.more(ctx); err != nil {
			return "", err
		}
	}
	return b.make(made.name+"-image", scripts+more, "the image with "+made.title, func(dir string) error {
		root := filepath.Join(dir, "root")
		if _, err := command(ctx, nil, "cp", "-a", filepath.Join(minimal, "root"), root); err != nil {
			return err
		}
		if more != "" {
			if _, err := command(ctx, nil, "cp", "-a", more, filepath.Join(root, "opt", made.name)); err != nil {
				return err
			}
		}
		for _, setup := range made.setups() {
			script, err := embedded(setup)
			if err != nil {
				return err
			}
			if _, err := command(ctx, nil, "unshare", "--mount", "/bin/sh", "-euc", script, root); err != nil {
				return err
			}
		}
		return errors.Join(writeImage(dir, image, entrypoint, root), os.RemoveAll(root))
	})
}

func writeImage(dir, name, entrypoint, root string) error {
	program := filepath.Base(entrypoint)
	if err := place(entrypoint, filepath.Join(root, "usr/local/bin", program)); err != nil {
		return err
	}
	img := image{name: name, entrypoint: []string{"/usr/local/bin/" + program}, root: root}
	return img.writeFile(filepath.Join(dir, "image.tar"))
}

// extraImages are the folders with tars of images that only some machines have.
func (b *builder) extraImages(ctx context.Context, names []string) ([]string, error) {
	var folders []string
	for _, name := range slices.Sorted(slices.Values(names)) {
		if _, known := podImages[name]; !known {
			return nil, fmt.Errorf("there is no image %q to be had", name)
		}
		folder, err := b.podImage(ctx, name)
		if err != nil {
			return nil, err
		}
		folders = append(folders, folder)
	}
	return slices.Compact(folders), nil
}

// containerdWith is the folder with containerd's state that a machine with these images begins with.
func (l *Lab) containerdWith(ctx context.Context, names []string) (string, error) {
	if len(names) == 0 {
		return l.parts.containerd, nil
	}
	b, unlock, err := newBuilder(l.say)
	if err != nil {
		return "", err
	}
	defer unlock()
	folders, err := b.extraImages(ctx, names)
	if err != nil {
		return "", err
	}
	return b.make("containerd", l.parts.containerd+strings.Join(folders, " "), "unpacked images with "+strings.Join(names, ", "), func(dir string) error {
		if err := cloneState(ctx, filepath.Join(l.parts.containerd, "state"), filepath.Join(dir, "state")); err != nil {
			return err
		}
		for _, folder := range folders {
			if err := importInto(ctx, dir, l.parts.base, folder); err != nil {
				return err
			}
		}
		return nil
	})
}
