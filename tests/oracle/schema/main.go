// Command schema makes the table of src/kube/schema: how each type that an API server stores as protobuf looks as JSON.
//
//	cd tests/oracle && go run ./schema ../../src/kube/schema/table.bin
//
// It reads the Go sources of the published modules (they need not be built): what a field is called in JSON, which number it has on the wire and when it
// is left out stands in the struct tags. Releases are united, the newest first, so that a field or type that a release has dropped is still known.
// What releases say differently of one field goes to standard error. The form of the table is described in docs/formats/schema.md.
package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"sort"
	"strconv"
	"strings"
)

// The modules and their releases, newest first: the last patch of each minor that the Go module proxy has.
var releases = []struct {
	module   string
	versions []string
}{
	{"k8s.io/apimachinery", []string{"v0.37.2", "v0.36.6", "v0.35.10", "v0.34.13", "v0.33.13", "v0.32.13", "v0.31.14", "v0.30.14", "v0.29.15", "v0.28.8", "v0.27.4", "v0.26.9", "v0.25.5", "v0.24.3", "v0.23.16", "v0.22.5", "v0.21.1", "v0.20.6", "v0.17.5"}},
	{"k8s.io/api", []string{"v0.37.2", "v0.36.6", "v0.35.10", "v0.34.13", "v0.33.13", "v0.32.13", "v0.31.14", "v0.30.14", "v0.29.15", "v0.28.3", "v0.27.4", "v0.26.9", "v0.25.9", "v0.24.3", "v0.23.16", "v0.22.5", "v0.21.1", "v0.20.6", "v0.17.5"}},
	{"k8s.io/kube-aggregator", []string{"v0.37.2", "v0.36.6", "v0.35.10", "v0.34.13", "v0.33.13", "v0.32.13", "v0.31.14", "v0.30.14", "v0.29.14"}},
	{"k8s.io/apiextensions-apiserver", []string{"v0.37.2", "v0.36.6", "v0.35.10", "v0.34.13", "v0.33.13", "v0.32.13", "v0.31.14", "v0.30.14", "v0.29.6", "v0.28.3", "v0.27.6", "v0.26.9", "v0.25.4", "v0.24.2"}},
	{"github.com/openshift/api", []string{"v0.0.0-20251015095338-264e80a2b6e7", "v0.0.0-20250710004639-926605d3338b", "v3.9.0+incompatible"}},
}

// Types whose JSON form is code and not tags.
const (
	typeString = iota
	typeBytes
	typeBool
	typeSigned
	typeUnsigned
	typeDouble
	typeFloat
	typeMessage
	typeTime
	typeMicroTime
	typeDuration
	typeQuantity
	typeIntOrString
	typeRawExtension
	typeRawJSON
)

var special = map[string]int{
	"k8s.io/apimachinery/pkg/apis/meta/v1.Time":                          typeTime,
	"k8s.io/apimachinery/pkg/apis/meta/v1.MicroTime":                     typeMicroTime,
	"k8s.io/apimachinery/pkg/apis/meta/v1.Duration":                      typeDuration,
	"k8s.io/apimachinery/pkg/apis/meta/v1.FieldsV1":                      typeRawJSON,
	"k8s.io/apimachinery/pkg/api/resource.Quantity":                      typeQuantity,
	"k8s.io/apimachinery/pkg/util/intstr.IntOrString":                    typeIntOrString,
	"k8s.io/apimachinery/pkg/runtime.RawExtension":                       typeRawExtension,
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSON":      typeRawJSON,
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1.JSON": typeRawJSON,
}

// Forms of a message.
const (
	formPlain   = iota
	formWrapper // JSON is that of its only field
	formEither  // JSON is that of field 2 if it is there, else of field 1
)

var either = regexp.MustCompile(`pkg/apis/apiextensions/v1(beta1)?\.JSONSchemaPropsOr(Array|Bool|StringArray)$`)

// Flags of a field.
const (
	flagPointer = 1 << iota
	flagRepeated
	flagMap
	flagOmitEmpty
	flagOmitZero
	flagInline
	flagHidden
	flagRetired
)

type field struct {
	number  int
	name    string
	kind    int
	flags   int
	message string
}

type message struct {
	form   int
	fields map[int]*field
}

type pkg struct {
	path    string
	types   map[string]*ast.TypeSpec
	files   map[string]*ast.File // of each type
	proto   map[string]bool      // messages of generated.proto
	wraps   map[string]bool      // those whose only field is items
	group   string
	hasGVK  bool
	version string
	legacy  map[string]bool   // kinds that are registered without a group
	foreign map[string]string // kinds that are registered here and are types of other packages
}

type kind struct{ apiVersion, kind string }

var (
	messages = map[string]*message{}
	kinds    = map[kind]string{}
	// Of the release under way:
	packages    = map[string]*pkg{}
	directories = map[string]string{} // by module
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "schema FILE")
		os.Exit(2)
	}
	roots := map[string][]string{}
	rounds := 0
	for _, r := range releases {
		for _, v := range r.versions {
			roots[r.module] = append(roots[r.module], download(r.module, v))
		}
		rounds = max(rounds, len(r.versions))
	}
	// Round by round; a module that has no release of a round keeps its oldest, which types of others may name.
	for round := range rounds {
		packages = map[string]*pkg{}
		var own []*pkg
		for _, r := range releases {
			dirs := roots[r.module]
			dir := dirs[min(round, len(dirs)-1)]
			directories[r.module] = dir
			for _, p := range load(r.module, dir) {
				packages[p.path] = p
				if round < len(dirs) {
					own = append(own, p)
				}
			}
		}
		for _, p := range own {
			p.collect()
		}
	}
	unite()
	write(os.Args[1])
}

// download brings a module's sources into the module cache and says where they are.
func download(module, version string) string {
	command := exec.Command("go", "mod", "download", "-json", module+"@"+version)
	command.Env = append(os.Environ(), "GOFLAGS=-mod=mod")
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		fatal("%s@%s: %v", module, version, err)
	}
	var answer struct{ Dir string }
	if err := json.Unmarshal(out, &answer); err != nil {
		fatal("%s@%s: %v", module, version, err)
	}
	return answer.Dir
}

func fatal(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

// load parses every package of a module that has a generated.proto.
func load(module, dir string) []*pkg {
	var found []*pkg
	err := filepath.WalkDir(dir, func(name string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "vendor" || entry.Name() == "third_party" || entry.Name() == "testapigroup") {
			return filepath.SkipDir
		}
		if entry.Name() == "generated.proto" {
			rel, err := filepath.Rel(dir, filepath.Dir(name))
			if err != nil {
				return err
			}
			found = append(found, parsePackage(path.Join(module, rel), filepath.Dir(name)))
		}
		return nil
	})
	if err != nil {
		fatal("%s: %v", dir, err)
	}
	return found
}

var (
	protoMessage = regexp.MustCompile(`(?s)\nmessage (\w+) \{(.*?)\n\}`)
	protoItems   = regexp.MustCompile(`(?s)^\s*(?://[^\n]*\n\s*)*repeated \S+ items = 1;\s*$`)
)

func parsePackage(importPath, dir string) *pkg {
	p := &pkg{path: importPath, types: map[string]*ast.TypeSpec{}, files: map[string]*ast.File{}, proto: map[string]bool{}, wraps: map[string]bool{}, legacy: map[string]bool{}, foreign: map[string]string{}, version: path.Base(importPath)}
	text, err := os.ReadFile(filepath.Join(dir, "generated.proto"))
	if err != nil && !os.IsNotExist(err) {
		fatal("%v", err)
	}
	for _, m := range protoMessage.FindAllStringSubmatch(string(text), -1) {
		p.proto[m[1]] = true
		p.wraps[m[1]] = protoItems.MatchString(m[2])
	}
	names, _ := filepath.Glob(filepath.Join(dir, "*.go"))
	for _, name := range names {
		base := filepath.Base(name)
		if strings.HasSuffix(base, "_test.go") || strings.HasPrefix(base, "generated") || strings.HasPrefix(base, "zz_") || strings.HasSuffix(base, "_generated.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			fatal("%v", err)
		}
		for _, decl := range file.Decls {
			p.declare(file, decl, strings.HasPrefix(base, "legacy"))
		}
	}
	return p
}

// declare notes types, the group's name, and what OpenShift also registers without a group.
func (p *pkg) declare(file *ast.File, decl ast.Decl, legacyFile bool) {
	if _, ok := decl.(*ast.FuncDecl); ok {
		ast.Inspect(decl, func(n ast.Node) bool {
			unary, ok := n.(*ast.UnaryExpr)
			if !ok || unary.Op != token.AND {
				return true
			}
			literal, ok := unary.X.(*ast.CompositeLit)
			if !ok {
				return true
			}
			switch name := literal.Type.(type) {
			case *ast.Ident:
				p.legacy[name.Name] = p.legacy[name.Name] || legacyFile
			case *ast.SelectorExpr:
				if of, ok := name.X.(*ast.Ident); ok && !legacyFile {
					p.foreign[name.Sel.Name] = importOf(file, of.Name) + "." + name.Sel.Name
				}
			}
			return true
		})
	}
	gen, ok := decl.(*ast.GenDecl)
	if !ok {
		return
	}
	for _, spec := range gen.Specs {
		switch spec := spec.(type) {
		case *ast.TypeSpec:
			p.types[spec.Name.Name] = spec
			p.files[spec.Name.Name] = file
		case *ast.ValueSpec:
			for i, name := range spec.Names {
				if name.Name == "GroupName" && i < len(spec.Values) {
					if literal, ok := spec.Values[i].(*ast.BasicLit); ok {
						p.group, _ = strconv.Unquote(literal.Value)
						p.hasGVK = true
					}
				}
			}
		}
	}
}

// collect takes a package's messages and kinds into the table.
func (p *pkg) collect() {
	var names []string
	for name := range p.proto {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		full := p.path + "." + name
		if _, isSpecial := special[full]; isSpecial {
			continue
		}
		spec, ok := p.types[name]
		if !ok {
			if name != "Timestamp" && name != "QuantityValue" {
				fmt.Fprintf(os.Stderr, "%s: in generated.proto only\n", full)
			}
			continue
		}
		p.take(full, spec)
		if p.hasGVK && p.hasTypeMeta(spec) {
			addKind(p.apiVersion(), name, full)
		}
	}
	for name, full := range p.foreign {
		if _, known := messages[full]; known && p.hasGVK {
			addKind(p.apiVersion(), name, full)
		}
	}
}

func (p *pkg) apiVersion() string {
	if p.group == "" {
		return p.version
	}
	return p.group + "/" + p.version
}

// addKind notes a kind unless a newer release has it.
func addKind(apiVersion, name, full string) {
	if _, known := kinds[kind{apiVersion, name}]; !known {
		kinds[kind{apiVersion, name}] = full
	}
}

func (p *pkg) hasTypeMeta(spec *ast.TypeSpec) bool {
	if other, ok := spec.Type.(*ast.Ident); ok && p.types[other.Name] != nil {
		return p.hasTypeMeta(p.types[other.Name])
	}
	s, ok := spec.Type.(*ast.StructType)
	if !ok {
		return false
	}
	for _, f := range s.Fields.List {
		if len(f.Names) == 0 && strings.HasSuffix(typeName(f.Type), "TypeMeta") {
			return true
		}
	}
	return false
}

func typeName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.StarExpr:
		return typeName(e.X)
	}
	return ""
}

// take adds one type of one release.
func (p *pkg) take(full string, spec *ast.TypeSpec) {
	m := &message{fields: map[int]*field{}}
	file := p.files[spec.Name.Name]
	switch t := spec.Type.(type) {
	case *ast.StructType:
		if either.MatchString(full) {
			m.form = formEither
		}
		for _, f := range t.Fields.List {
			if made := p.field(full, file, f); made != nil {
				m.fields[made.number] = made
			}
		}
	case *ast.ArrayType:
		if !p.wraps[spec.Name.Name] {
			fatal("%s: a list that is no message of items", full)
		}
		m.form = formWrapper
		f := &field{number: 1, name: "items"}
		p.resolve(full, file, t, f)
		m.fields[1] = f
	case *ast.MapType:
		m.form = formWrapper
		f := &field{number: 1, name: "items"}
		p.resolve(full, file, t, f)
		m.fields[1] = f
	case *ast.Ident: // declared as another type of this package
		p.take(full, p.types[t.Name])
		return
	case *ast.SelectorExpr: // or of another one
		other := packageAt(importOf(file, t.X.(*ast.Ident).Name))
		other.take(full, other.types[t.Sel.Name])
		return
	default:
		fatal("%s: a message that is neither struct nor list", full)
	}
	merge(full, m)
}

// merge adds what newer releases do not have.
func merge(full string, m *message) {
	known, ok := messages[full]
	if !ok {
		messages[full] = m
		return
	}
	if known.form != m.form {
		fmt.Fprintf(os.Stderr, "%s: form %d was %d\n", full, known.form, m.form)
	}
	for number, old := range m.fields {
		now, ok := known.fields[number]
		if !ok {
			old.flags |= flagRetired
			known.fields[number] = old
			continue
		}
		before, after := *old, *now
		before.flags, after.flags = before.flags&^flagRetired, after.flags&^flagRetired
		if before != after {
			difference(full, before, after)
		}
		if before.message != after.message && before.message != "" && after.message != "" {
			renamed = append(renamed, [2]string{before.message, after.message})
		}
	}
}

// The types of fields that have another type since: before and after.
var renamed [][2]string

// unite gives each type the fields of the one in whose place it came, which older releases may have written.
func unite() {
	for _, pair := range renamed {
		before, after := messages[pair[0]], messages[pair[1]]
		if before == nil || after == nil || before.form != formPlain || after.form != formPlain {
			continue
		}
		for number, old := range before.fields {
			if _, known := after.fields[number]; !known {
				retired := *old
				retired.flags |= flagRetired
				after.fields[number] = &retired
				fmt.Fprintf(os.Stderr, "%s: field %d: that of %s\n", pair[1], number, pair[0])
			}
		}
	}
}

var told = map[string]bool{}

func difference(full string, before, after field) {
	line := fmt.Sprintf("%s: field %d: %+v was %+v", full, after.number, after, before)
	if !told[line] {
		told[line] = true
		fmt.Fprintln(os.Stderr, line)
	}
}

// field reads one struct field; nil for one that is not on the wire.
func (p *pkg) field(full string, file *ast.File, f *ast.Field) *field {
	if f.Tag == nil {
		return nil
	}
	text, err := strconv.Unquote(f.Tag.Value)
	if err != nil {
		fatal("%s: %v", full, err)
	}
	tag := reflect.StructTag(text)
	wire := strings.Split(tag.Get("protobuf"), ",")
	if len(wire) < 2 {
		if tag.Get("protobuf") != "-" && !strings.HasSuffix(typeName(f.Type), "TypeMeta") {
			fmt.Fprintf(os.Stderr, "%s: %s %v is not on the wire\n", full, typeName(f.Type), f.Names)
		}
		return nil
	}
	number, err := strconv.Atoi(wire[1])
	if err != nil {
		fatal("%s: %v", full, err)
	}
	made := &field{number: number}
	names := strings.Split(tag.Get("json"), ",")
	made.name = names[0]
	for _, option := range names[1:] {
		switch option {
		case "omitempty":
			made.flags |= flagOmitEmpty
		case "omitzero":
			made.flags |= flagOmitZero
		case "inline":
		default:
			fatal("%s: json option %q", full, option)
		}
	}
	if made.name == "-" {
		made.name = ""
		made.flags |= flagHidden
	}
	if made.name == "" && made.flags&flagHidden == 0 {
		if len(f.Names) == 0 {
			made.flags |= flagInline
		} else {
			made.name = f.Names[0].Name
		}
	}
	p.resolve(full, file, f.Type, made)
	if made.flags&flagInline != 0 && made.kind != typeMessage {
		fatal("%s: field %d is inlined and no message", full, number)
	}
	return made
}

// resolve finds what a Go type is on the wire.
func (p *pkg) resolve(full string, file *ast.File, e ast.Expr, f *field) {
	switch t := e.(type) {
	case *ast.ParenExpr:
		p.resolve(full, file, t.X, f)
	case *ast.StarExpr:
		f.flags |= flagPointer
		p.resolve(full, file, t.X, f)
	case *ast.ArrayType:
		if typeName(t.Elt) == "byte" {
			f.kind = typeBytes
			return
		}
		if f.flags&(flagRepeated|flagMap) != 0 {
			fatal("%s: field %d: a list in a list", full, f.number)
		}
		f.flags |= flagRepeated
		element := &field{number: f.number}
		p.resolve(full, file, t.Elt, element)
		if element.flags&(flagRepeated|flagMap) != 0 {
			fatal("%s: field %d: a list of lists", full, f.number)
		}
		f.kind, f.message = element.kind, element.message
	case *ast.MapType:
		f.flags |= flagMap
		key, value := &field{}, &field{number: f.number}
		p.resolve(full, file, t.Key, key)
		p.resolve(full, file, t.Value, value)
		if key.kind != typeString || value.flags&(flagRepeated|flagMap) != 0 {
			fatal("%s: field %d: a map of another kind", full, f.number)
		}
		f.kind, f.message = value.kind, value.message
	case *ast.Ident:
		if kind, ok := basic[t.Name]; ok {
			f.kind = kind
			return
		}
		p.named(full, t.Name, f)
	case *ast.SelectorExpr:
		target := importOf(file, t.X.(*ast.Ident).Name)
		if target == "k8s.io/apimachinery/pkg/types" { // UID, NodeName and the like
			f.kind = typeString
			return
		}
		if target == "time" && t.Sel.Name == "Duration" {
			f.kind = typeSigned
			return
		}
		other := packageAt(target)
		if other == nil {
			fatal("%s: field %d: unknown package %s of %s", full, f.number, target, t.Sel.Name)
		}
		other.named(full, t.Sel.Name, f)
	default:
		fatal("%s: field %d: type %T", full, f.number, e)
	}
}

var basic = map[string]int{
	"string": typeString, "bool": typeBool, "int": typeSigned, "int32": typeSigned, "int64": typeSigned, "int16": typeSigned, "int8": typeSigned,
	"uint": typeUnsigned, "uint16": typeUnsigned, "uint32": typeUnsigned, "uint64": typeUnsigned, "float64": typeDouble, "float32": typeFloat,
}

func (p *pkg) named(full, name string, f *field) {
	target := p.path + "." + name
	if kind, ok := special[target]; ok {
		f.kind = kind
		return
	}
	spec, ok := p.types[name]
	if !ok {
		fatal("%s: field %d: unknown type %s", full, f.number, target)
	}
	if p.proto[name] {
		f.kind, f.message = typeMessage, target
		return
	}
	if _, isStruct := spec.Type.(*ast.StructType); isStruct {
		fatal("%s: field %d: %s is a struct without a message", full, f.number, target)
	}
	p.resolve(full, p.files[name], spec.Type, f)
}

// packageAt finds a package; one that has no messages, and so was not loaded, may still have types of strings.
func packageAt(target string) *pkg {
	if p, ok := packages[target]; ok {
		return p
	}
	for module, dir := range directories {
		if rel, ok := strings.CutPrefix(target, module+"/"); ok {
			packages[target] = parsePackage(target, filepath.Join(dir, rel))
			return packages[target]
		}
	}
	return nil
}

func importOf(file *ast.File, alias string) string {
	for _, spec := range file.Imports {
		target, _ := strconv.Unquote(spec.Path.Value)
		if spec.Name != nil && spec.Name.Name == alias || spec.Name == nil && path.Base(target) == alias {
			return target
		}
	}
	return alias
}

// write puts the table together: strings, messages, kinds.
func write(name string) {
	addLegacyKinds()
	var fulls []string
	for full := range messages {
		fulls = append(fulls, full)
	}
	sort.Strings(fulls)
	ordinal := map[string]int{}
	texts := map[string]bool{"": true}
	for i, full := range fulls {
		ordinal[full] = i
		for _, f := range messages[full].fields {
			texts[f.name] = true
		}
	}
	var order []kind
	for k := range kinds {
		order = append(order, k)
		texts[k.apiVersion], texts[k.kind] = true, true
	}
	sort.Slice(order, func(i, j int) bool {
		return order[i].apiVersion < order[j].apiVersion || order[i].apiVersion == order[j].apiVersion && order[i].kind < order[j].kind
	})
	var strs []string
	for s := range texts {
		strs = append(strs, s)
	}
	sort.Strings(strs)
	place := map[string]int{}
	out := []byte("atrestk8")
	put := func(n int) { out = binary.AppendUvarint(out, uint64(n)) }
	put(len(strs))
	for i, s := range strs {
		place[s] = i
		put(len(s))
		out = append(out, s...)
	}
	put(len(fulls))
	count := 0
	for _, full := range fulls {
		m := messages[full]
		var numbers []int
		for n := range m.fields {
			numbers = append(numbers, n)
		}
		sort.Ints(numbers)
		put(m.form)
		put(len(numbers))
		for _, n := range numbers {
			f := m.fields[n]
			put(n)
			put(place[f.name])
			put(f.kind)
			put(f.flags)
			if f.kind == typeMessage {
				target, ok := ordinal[f.message]
				if !ok {
					fatal("%s: field %d: no message %s", full, n, f.message)
				}
				put(target)
			}
			count++
		}
	}
	put(len(order))
	for _, k := range order {
		put(place[k.apiVersion])
		put(place[k.kind])
		put(ordinal[kinds[k]])
	}
	if err := os.WriteFile(name, out, 0o644); err != nil {
		fatal("%v", err)
	}
	fmt.Fprintf(os.Stderr, "%d messages, %d fields, %d kinds, %d strings, %d bytes\n", len(fulls), count, len(order), len(strs), len(out))
}

// addLegacyKinds: OpenShift 3 stored its own kinds as v1, without a group.
func addLegacyKinds() {
	for _, r := range releases {
		if r.module != "github.com/openshift/api" {
			continue
		}
		for _, v := range r.versions {
			for _, p := range load(r.module, download(r.module, v)) {
				for name, isLegacy := range p.legacy {
					if !isLegacy {
						continue
					}
					full := p.path + "." + name
					if _, known := messages[full]; known {
						addKind("v1", name, full)
					}
				}
			}
		}
	}
}
