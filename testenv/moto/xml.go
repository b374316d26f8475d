package moto

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
)

// node is an element of an answer.
type node struct {
	name     string
	text     string
	children []*node
}

func parseXML(raw []byte) (*node, error) {
	decoder := xml.NewDecoder(strings.NewReader(string(raw)))
	root := &node{}
	stack := []*node{root}
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		top := stack[len(stack)-1]
		switch t := token.(type) {
		case xml.StartElement:
			child := &node{name: t.Name.Local}
			top.children = append(top.children, child)
			stack = append(stack, child)
		case xml.EndElement:
			stack = stack[:len(stack)-1]
		case xml.CharData:
			top.text += string(t)
		}
	}
	if len(root.children) != 1 {
		return nil, errors.New("no XML document")
	}
	return root.children[0], nil
}

func (n *node) render(b *strings.Builder) {
	b.WriteString("<" + n.name + ">")
	if len(n.children) == 0 {
		_ = xml.EscapeText(b, []byte(n.text)) // a Builder does not fail
	}
	for _, child := range n.children {
		child.render(b)
	}
	b.WriteString("</" + n.name + ">")
}

func (n *node) String() string {
	var b strings.Builder
	n.render(&b)
	return b.String()
}

// child is the first of that name; a nil node has none.
func (n *node) child(path ...string) *node {
	for _, name := range path {
		if n == nil {
			return nil
		}
		var found *node
		for _, child := range n.children {
			if child.name == name {
				found = child
				break
			}
		}
		n = found
	}
	return n
}

// value is the text at a path, "" when there is none.
func (n *node) value(path ...string) string {
	if found := n.child(path...); found != nil {
		return found.text
	}
	return ""
}

// set gives a child a text, and makes the child when it is missing.
func (n *node) set(name, text string) {
	if found := n.child(name); found != nil {
		found.text, found.children = text, nil
		return
	}
	n.children = append(n.children, leaf(name, text))
}

func (n *node) add(children ...*node) { n.children = append(n.children, children...) }

func leaf(name, text string) *node { return &node{name: name, text: text} }

func element(name string, children ...*node) *node { return &node{name: name, children: children} }
