package mariadb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
)

// Client is one connection of root's, which does one thing at a time.
type Client struct {
	process *exec.Cmd
	input   io.WriteCloser
	answers *bufio.Reader
}

// Open connects. The connection ends with Close, or ctx.
func (s *Server) Open(ctx context.Context) (*Client, error) {
	c := &Client{process: exec.CommandContext(ctx, "mariadb", "--defaults-file="+s.ClientFile(), "--batch", "--skip-column-names", "--unbuffered", "--skip-reconnect")}
	c.process.SysProcAttr = &syscall.SysProcAttr{Credential: s.owner}
	var err error
	if c.input, err = c.process.StdinPipe(); err != nil {
		return nil, err
	}
	answers, err := c.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.answers = bufio.NewReader(answers)
	return c, c.process.Start()
}

// Ask runs statements, on one line, that give one row, and returns it.
func (c *Client) Ask(statements string) (string, error) {
	if _, err := io.WriteString(c.input, statements+"\n"); err != nil {
		return "", err
	}
	answer, err := c.answers.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("ask %.80q: %w", statements, err)
	}
	return answer[:len(answer)-1], nil
}

// Close ends the connection.
func (c *Client) Close() error { return errors.Join(c.input.Close(), c.process.Wait()) }
