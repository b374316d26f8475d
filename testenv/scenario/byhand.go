package scenario

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"

	"github.com/musterdr/muster/testenv"
)

// Blank makes blank machines, with their disks, in place of members that were destroyed.
func (s *Scenario) Blank(ctx context.Context, members []string) error {
	for _, name := range members {
		m := testenv.Machine{Name: name, Role: testenv.RoleBlank, Images: s.config.Cluster.Images}
		if name == s.diskOn {
			m.Disks = s.config.Cluster.Disks
		}
		if err := s.Lab.NewMachine(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// ByHand is a shell, to be run by the caller, that follows what `muster points show --break-glass`
// prints of the newest recovery point, with the stock tools and without muster or its state.
func (s *Scenario) ByHand(ctx context.Context) (*exec.Cmd, error) {
	tools, err := testenv.StockTools(ctx, s.say)
	if err != nil {
		return nil, err
	}
	var script strings.Builder
	if err := s.Run(ctx, "break-glass", &script, "points", "show", "latest", "--break-glass"); err != nil {
		return nil, err
	}
	bin := s.path("bin")
	// A person's own ssh_config names key and known hosts; so does this ssh.
	ssh := "#!/bin/sh\nexec /usr/bin/ssh -F " + s.path("ssh_config") + " \"$@\"\n"
	if err := errors.Join(
		os.RemoveAll(s.path("state")),
		os.MkdirAll(bin, 0o755),
		os.WriteFile(s.path("ssh_config"), []byte(s.Lab.SSHConfig()), 0o600),
		os.WriteFile(bin+"/ssh", []byte(ssh), 0o755),
	); err != nil {
		return nil, err
	}
	c := exec.CommandContext(ctx, "sh", "-eu")
	c.Dir = s.config.Dir
	c.Stdin = strings.NewReader(script.String())
	c.Env = []string{"HOME=" + s.config.Dir, "PATH=" + bin + ":" + tools + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	return c, nil
}
