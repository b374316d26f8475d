package aws

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/providers-aws-policy.json")

const policyFile = "../../docs/providers-aws-policy.json"

// TestPolicy holds the table of operations to the code: every input of AWS's that the code fills is in it,
// and nothing else; and the document to the table.
func TestPolicy(t *testing.T) {
	// The SDK's own role provider calls it.
	called := []string{"sts:AssumeRole"}
	for _, name := range inputs(t) {
		if !slices.Contains(called, name) {
			called = append(called, name)
		}
	}
	var listed []string
	for _, o := range operations() {
		if slices.Contains(listed, o.name) {
			t.Errorf("%s stands in the table twice", o.name)
		}
		listed = append(listed, o.name)
	}
	for _, name := range called {
		if !slices.Contains(listed, name) {
			t.Errorf("the code calls %s, and the table of policy.go does not have it", name)
		}
	}
	for _, name := range listed {
		if !slices.Contains(called, name) {
			t.Errorf("the table of policy.go has %s, and the code does not call it", name)
		}
	}
	policy := must(Policy())
	if *update {
		if err := os.WriteFile(policyFile, policy, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if written := must(os.ReadFile(policyFile)); !bytes.Equal(written, policy) {
		t.Errorf("%s is not what policy.go says: go test ./providers/aws -run TestPolicy -update", policyFile)
	}
}

// inputs are the operations whose inputs stand in the package's source.
func inputs(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, path := range must(filepath.Glob("*.go")) {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		ast.Inspect(must(parser.ParseFile(token.NewFileSet(), path, nil, 0)), func(n ast.Node) bool {
			selector, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			service, ok := selector.X.(*ast.Ident)
			operation, input := strings.CutSuffix(selector.Sel.Name, "Input")
			if ok && input && slices.Contains([]string{"ec2", "ebs", "sts"}, service.Name) {
				found = append(found, service.Name+":"+operation)
			}
			return true
		})
	}
	return found
}

// TestPolicyAllows looks for every action of the table in the policy, as AWS would read it; an operation
// that has its own name among actions must find it there.
func TestPolicyAllows(t *testing.T) {
	var policy struct{ Statement []statement }
	if err := json.Unmarshal(must(Policy()), &policy); err != nil {
		t.Fatal(err)
	}
	sids := map[string]bool{}
	var allowed []string
	for _, s := range policy.Statement {
		if sids[s.Sid] || s.Effect != "Allow" || len(s.Resource) == 0 {
			t.Errorf("statement %+v", s)
		}
		sids[s.Sid] = true
		allowed = append(allowed, s.Action...)
	}
	for _, o := range operations() {
		if len(o.rights) > 0 && !slices.Contains(allowed, o.name) {
			t.Errorf("the policy does not allow %s", o.name)
		}
	}
	if size := len(bytes.Join(bytes.Fields(must(Policy())), nil)); size > 6144 {
		t.Errorf("the policy has %d characters without white space, and AWS takes 6144", size)
	}
}
