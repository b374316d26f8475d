package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// command is a program that ends with ctx, and with this process.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c
}

// asGroup ends a program together with everything that it started.
func asGroup(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
}

// run waits for a program; the error holds what it wrote.
func run(c *exec.Cmd) error {
	var said bytes.Buffer
	if c.Stdout == nil {
		c.Stdout = &said
	}
	c.Stderr = &said
	if err := c.Run(); err != nil {
		text := strings.TrimSpace(said.String())
		return fmt.Errorf("%s: %w: %s", c.Path, err, text[max(0, len(text)-2000):])
	}
	return nil
}

// serve starts a program that runs until the benchmark ends; its log is in the stage's folder.
func serve(on *stage, name string, args ...string) error {
	log, err := os.Create(on.fresh("log"))
	if err != nil {
		return err
	}
	defer log.Close()
	c := command(context.Background(), name, args...)
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		return err
	}
	on.after(func(context.Context) error {
		_ = c.Process.Kill()
		_ = c.Wait() // the error is the signal that Kill sent
		return nil
	})
	return nil
}

// freePorts finds ports of loopback that nobody listens on.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer listener.Close()
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
