package lastvalue

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
)

func TestScalar(t *testing.T) {
	for _, tc := range []struct{ pointer, text, want string }{
		{"/symbol", `{"symbol":"ABC","price":1}`, `"ABC"`},
		{"/symbol", ` { "price" : [1,{"symbol":2}] , "symbol" : "A\u0042C" } `, `"ABC"`},
		{"/symbol", `{"symb\u006fl":7}`, `7`},
		{"/a/b", `{"a":{"c":"}","b":-1.5e3}}`, `-1.5e3`},
		{"/a/1", `{"a":["x",true,"z"]}`, `true`},
		{"/a/1", `{"a":{"1":"member"}}`, `"member"`},
		{"/a/01", `{"a":["x","y"]}`, ``},
		{"/a/2", `{"a":["x","y"]}`, ``},
		{"/a/-", `{"a":["x"]}`, ``},
		{"/a~1b~0c", `{"a/b~c":null}`, `null`},
		{"/", `{"":0}`, `0`},
		{"/a", `{"a":{}}`, ``},
		{"/a", `{"a":[1]}`, ``},
		{"/a", `{"b":1}`, ``},
		{"/a", `{"a":1,"a":2}`, `2`},
		{"/a/b", `{"a":{"b":1},"a":3}`, ``},
		{"/a/b", `{"a":3,"a":{"b":1}}`, `1`},
		{"/a", `{"a":1} junk`, ``},
		{"/a", "{\"a\":1}\n", `1`},
		{"/a", `{"a":1}{"a":1}`, ``},
		{"/a", `{"a":1,"b":`, ``},
		{"/0", `[1] 2`, ``},
		{"/a", `{"a":`, ``},
		{"/a", `{"a":"open`, ``},
		{"/a", `{"a":nothing}`, ``},
		{"/a", `{"x":[[[,"a":1}`, ``},
		{"/a", `not json`, ``},
		{"/a", ``, ``},
		{"/a", `[1]`, ``},
		{"/a", `{"a" 1}`, ``},
		{"/0", `[]`, ``},
		{"/0", `["x"]`, `"x"`},
		{"/a", `{"s":"\\","a":"\""}`, `"""`},
		{"/a", "{\"a\":\n\"x\"}", `"x"`},
		{"/a", `{"x":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `,"a":1}`, ``},
	} {
		p, err := ParsePointer(tc.pointer)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(p.Scalar([]byte(tc.text))); got != tc.want {
			t.Errorf("%s in %.60s: got %s, want %s", tc.pointer, tc.text, got, tc.want)
		}
	}
	if got := new(Pointer).Scalar([]byte(`{"":1}`)); got != nil {
		t.Errorf("no pointer: got %s", got)
	}
}

func TestPointersAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":        "must begin with '/'",
		"symbol":  "must begin with '/'",
		"#/x":     "must begin with '/'",
		"/a~":     "'~' must be followed by 0",
		"/a~2b":   "'~' must be followed by 0",
		"/a/~~0b": "'~' must be followed by 0",
	} {
		if _, err := ParsePointer(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

// lookUp is what a pointer points to, by encoding/json.
func lookUp(p Pointer, text []byte) (scalar []byte) {
	value := json.RawMessage(text)
	for _, t := range p.tokens {
		var object map[string]json.RawMessage
		var array []json.RawMessage
		switch {
		case json.Unmarshal(value, &object) == nil && object != nil:
			if value = object[t.name]; value == nil {
				return nil
			}
		case json.Unmarshal(value, &array) == nil && t.index >= 0 && t.index < len(array):
			value = array[t.index]
		default:
			return nil
		}
	}
	value = bytes.TrimSpace(value)
	if len(value) == 0 || value[0] == '{' || value[0] == '[' {
		return nil
	}
	return canonical(value)
}

func FuzzScalar(f *testing.F) {
	for _, text := range []string{
		`{"a":1}`, `{"a":1,"b":{},"a":2}`, `{"a":{"b":[1,"x",null]},"b":"\u00e4\n"}`, `[[1,2],{"a":"b"}]`, `{"a":"\ud800"}`, `"a"`, `{"a":1e9,"b":{}}`, "{\"a\":\"\xff\"}",
	} {
		for _, pointer := range []string{"/a", "/a/b/1", "/1/a", "/b", "/"} {
			f.Add(pointer, []byte(text))
		}
	}
	f.Fuzz(func(t *testing.T, pointer string, text []byte) {
		p, err := ParsePointer(pointer)
		if err != nil {
			return
		}
		got := p.Scalar(text)
		if !json.Valid(text) {
			return // it is not to panic
		}
		if want := lookUp(p, text); string(got) != string(want) {
			t.Errorf("%s in %s: got %s, want %s", strconv.Quote(pointer), text, got, want)
		}
	})
}

func BenchmarkScalar(b *testing.B) {
	p, _ := ParsePointer("/symbol")
	text := []byte(`{"time":1764190000000,"venue":{"name":"X","open":true},"symbol":"ABC","bid":[101.25,300],"ask":[101.5,200]}`)
	b.ReportAllocs()
	for b.Loop() {
		p.Scalar(text)
	}
}
