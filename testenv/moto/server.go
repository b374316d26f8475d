package moto

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/musterdr/muster/testenv"
)

// process is moto's server.
type process struct {
	url string
	cmd *exec.Cmd
	log string
}

// startProcess starts moto on a free port of loopback and waits until it answers.
func startProcess(ctx context.Context, dir string) (*process, error) {
	python, err := testenv.Moto(ctx)
	if err != nil {
		return nil, err
	}
	address, err := freePort()
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	p := &process{url: "http://" + address, log: filepath.Join(dir, "moto.log")}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = exec.Command(filepath.Join(python, "bin/python"), "-m", "moto.server", "-H", "127.0.0.1", "-p", port)
	p.cmd.Env = []string{"HOME=" + dir, "MOTO_EC2_LOAD_DEFAULT_AMIS=false", "PYTHONUNBUFFERED=1", "PATH=" + os.Getenv("PATH")}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if err := p.answers(ctx); err != nil {
		text, _ := os.ReadFile(p.log)
		return nil, errors.Join(fmt.Errorf("moto does not answer: %w\n%s", err, text), p.stop())
	}
	return p, nil
}

// stop ends the process, by its ID.
func (p *process) stop() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = p.cmd.Wait() // the error is the signal that Kill sent
	return nil
}

func (p *process) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := p.post(ctx, "/moto-api/reset")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-ticker.C:
		}
	}
}

// reset forgets everything that was made.
func (p *process) reset(ctx context.Context) error { return p.post(ctx, "/moto-api/reset") }

func (p *process) post(ctx context.Context, path string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+path, bytes.NewReader(nil))
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("moto answers %s", response.Status)
	}
	return nil
}

func freePort() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}
