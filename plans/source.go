package plans

import "go.yaml.in/yaml/v3"

// source is where a document came from.
type source struct {
	file  string
	root  *yaml.Node
	lines []string // of the whole file
}

// at returns the position of a value inside the document: at("spec", "steps", 2). Where a part of
// the path does not exist it is the position of what would hold it.
func (s *source) at(path ...any) Position {
	if s == nil {
		return Position{}
	}
	node := s.node(path...)
	return Position{s.file, node.Line, node.Column}
}

// key is at for the name of a field instead of its value.
func (s *source) key(path ...any) Position {
	if s == nil {
		return Position{}
	}
	last := len(path) - 1
	holder := s.node(path[:last]...)
	for holder.Kind == yaml.AliasNode {
		holder = holder.Alias
	}
	if holder.Kind != yaml.MappingNode {
		return s.at(path...)
	}
	for i := 0; i+1 < len(holder.Content); i += 2 {
		if holder.Content[i].Value == path[last] {
			return Position{s.file, holder.Content[i].Line, holder.Content[i].Column}
		}
	}
	return s.at(path...)
}

func (s *source) node(path ...any) *yaml.Node {
	node := s.root
	for _, part := range path {
		next := child(node, part)
		if next == nil {
			break
		}
		node = next
	}
	return node
}

func child(node *yaml.Node, part any) *yaml.Node {
	for node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if i, ok := part.(int); ok {
		if node.Kind == yaml.SequenceNode && i < len(node.Content) {
			return node.Content[i]
		}
		return nil
	}
	if node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == part {
			return node.Content[i+1]
		}
	}
	return nil
}
