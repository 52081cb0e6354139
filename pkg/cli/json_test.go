package cli_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tandemd/tandem/pkg/api"
)

// "JSON types versioned and documented": docs/operate/json.md names every field
// of what the commands print.
func TestJSON_EveryFieldIsDocumented(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "operate", "json.md"))
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]bool{
		"normalized": true, "next": true, "line": true, "ended": true, "jobs": true, "runs": true,
		"token": true, "nodes": true, "changes": true, "guests": true, "discarded": true, "unmounted": true,
	}
	for _, doc := range []any{
		api.Status{},
		api.Job{},
		api.DeletedJob{},
		api.Run{},
		api.Explanation{},
		api.Watch{}.Progress,
		api.Token{},
		api.Expectation{},
		api.Removal{},
		api.Change{},
		api.NodeStorages{},
		api.Guest{},
		api.GuestRemoval{},
		api.Discovery{},
		api.DivergedList{},
		api.DivergedDetail{},
		api.DivergedMount{},
		api.Restored{},
		api.KeptRemoval{},
		api.Migration{},
		api.NodeRecovery{},
		api.Drill{},
	} {
		collect(fields, reflect.TypeOf(doc))
	}
	if len(fields) < 60 {
		t.Fatalf("only %d fields: the test looks in the wrong place", len(fields))
	}
	for name := range fields {
		if !strings.Contains(string(b), "`"+name+"`") {
			t.Errorf("docs/operate/json.md does not name the field %s", name)
		}
	}
}

// collect gathers the names of a type's fields and of those below them.
func collect(fields map[string]bool, typ reflect.Type) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || typ == reflect.TypeFor[time.Time]() {
		return
	}
	for f := range typ.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-": // It stays in the client.
		case name != "":
			fields[name] = true
			collect(fields, f.Type)
		case f.Anonymous:
			collect(fields, f.Type)
		default: // it writes itself as text
		}
	}
}
