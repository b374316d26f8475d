package testenv

import (
	"context"
	"path/filepath"
)

// Jars is a folder with the jars that the pom.xml in a folder of this package names, and with all that they need.
// They come from Maven Central once and stay in the lab's cache.
func Jars(ctx context.Context, folder string) (string, error) {
	if err := Install(ctx, "openjdk-17-jre-headless", "maven"); err != nil {
		return "", err
	}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(cache, "jars.lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	b := &builder{cache, func(string, ...any) {}}
	source := filepath.Join(sourceDir(), folder)
	key, err := digest(source, "pom.xml")
	if err != nil {
		return "", err
	}
	return b.make(filepath.Base(folder), key, "jars from Maven Central", func(dir string) error {
		_, err := command(ctx, nil, "mvn", "--quiet", "--batch-mode", "--file", filepath.Join(source, "pom.xml"),
			"dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory="+dir)
		return err
	})
}
