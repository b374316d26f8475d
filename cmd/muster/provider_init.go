package main

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/musterdr/muster/providers/fault"
)

//go:embed skeleton
var skeleton embed.FS

var providerName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

// outline fills the skeleton of a provider.
type outline struct {
	Name    string
	Module  string
	Version string // of muster, as go.mod names it
	Replace string // a checkout of muster; empty: the released module
}

func (a *app) providerInitCommand() *cobra.Command {
	o := outline{}
	folder := ""
	command := &cobra.Command{
		Use:   "init NAME",
		Short: "Write a new provider that compiles, works in memory and passes its tests",
		Long: `Init writes a Go module with a small provider that keeps volumes in memory, and with the conformance suite as
its test. Replace the memory by your backend, one call after the other; the tests tell what is missing.`,
		Example: "  muster provider init lvm --module example.org/muster-provider-lvm",
		Args:    exactly(1),
		RunE: func(_ *cobra.Command, args []string) error {
			o.Name = args[0]
			return a.writeSkeleton(o, folder)
		},
	}
	flags := command.Flags()
	flags.StringVar(&folder, "folder", "", "where to write (default ./muster-provider-NAME)")
	flags.StringVar(&o.Module, "module", "", "path of the Go module (default muster-provider-NAME)")
	flags.StringVar(&o.Replace, "replace", "", "a checkout of muster to build against")
	return command
}

func (a *app) writeSkeleton(o outline, folder string) error {
	const op = "write provider"
	program := "muster-provider-" + o.Name
	if !providerName.MatchString(o.Name) {
		return fault.Newf(op, fault.Invalid, o.Name, "a provider's name begins with a lower case letter, and is made of these, digits and '-'")
	}
	if folder == "" {
		folder = program
	}
	if o.Module == "" {
		o.Module = program
	}
	o.Version = moduleVersion()
	if o.Replace != "" {
		checkout, err := filepath.Abs(o.Replace)
		if err != nil {
			return fault.New(op, fault.Internal, o.Replace, err)
		}
		o.Replace = checkout
	}
	if err := freshFolder(op, folder); err != nil {
		return err
	}
	if err := o.write(folder); err != nil {
		return fault.New(op, fault.Internal, folder, err)
	}
	fmt.Fprintf(a.out, "%s holds a provider that works. Next:\n\n  cd %s\n  go mod tidy\n  go test ./...\n  go build -o %s .\n\nREADME.md says how to go on.\n", folder, folder, program)
	return nil
}

// moduleVersion is this muster's version, where it is one that a go.mod can name.
func moduleVersion() string {
	if v := buildVersion(); strings.HasPrefix(v, "v") && !strings.Contains(v, "+") {
		return v
	}
	return "v0.0.0"
}

func freshFolder(op, folder string) error {
	entries, err := os.ReadDir(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fault.New(op, fault.Invalid, folder, err)
	case len(entries) > 0:
		return fault.Newf(op, fault.Exists, folder, "the folder is not empty; name another one with --folder")
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fault.New(op, fault.Denied, folder, err)
	}
	return nil
}

func (o outline) write(folder string) error {
	files, err := fs.Sub(skeleton, "skeleton")
	if err != nil {
		return err
	}
	return fs.WalkDir(files, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := fs.ReadFile(files, path)
		if err != nil {
			return err
		}
		form, err := template.New(path).Delims("«", "»").Parse(string(text))
		if err != nil {
			return err
		}
		var out bytes.Buffer
		if err := form.Execute(&out, o); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(folder, strings.TrimSuffix(path, ".tmpl")), out.Bytes(), 0o644)
	})
}
