package opensearch

import (
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// User and Password are the account's.
const (
	User     = "backup"
	Password = `planted-search-password "\:'#09`
)

// WithAccount is an address of the server with TLS where only the account is heard: 401 for others, and 403 for
// paths that begin as one of those denied, in the words of the security plugin. It returns the port, and the file of
// the authority.
func (s *Server) WithAccount(t testing.TB, denied ...string) (port, caFile string) {
	t.Helper()
	to := &url.URL{Scheme: "http", Host: "127.0.0.1:" + s.Port}
	proxy := httputil.NewSingleHostReverseProxy(to)
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != User || password != Password {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		for _, path := range denied {
			if strings.HasPrefix(r.URL.Path, path) {
				http.Error(w, `{"error":{"type":"security_exception","reason":"no permissions for [cluster:admin/repository/put] and User [name=backup]"},"status":403}`, http.StatusForbidden)
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	front.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that refuse it are no news
	front.StartTLS()
	t.Cleanup(front.Close)
	address, err := url.Parse(front.URL)
	if err != nil {
		t.Fatal(err)
	}
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})
	if err := os.WriteFile(caFile, block, 0o644); err != nil {
		t.Fatal(err)
	}
	return address.Port(), caFile
}
