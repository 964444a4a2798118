package ssefanin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sse-fanin/caddy-sse-fanin/logstore"
)

const (
	// A log takes long to load after longLoading.
	longLoading = time.Minute

	// A node is behind when the log has had for longBehind what its memory has not.
	longBehind = 10 * time.Second
)

// logTroubles are what is wrong with a stream's log where it is kept besides
// memory, and with the nodes that serve it; s is nil where it is not.
func logTroubles(stream string, s *storeStatus, now time.Time) []trouble {
	if s == nil {
		return nil
	}
	var found []trouble
	if t, ok := s.trouble(now); ok {
		found = append(found, t)
	}
	if lasts := s.unwritten(now); lasts > 0 {
		found = append(found, trouble{
			Kind: "unwritten", Level: levelBad,
			What:     "No node has written the log for " + spanText(lasts) + ": no upstream is connected, and clients get nothing new",
			Remedy:   "A node takes over by itself, unless something keeps all of them from it: look at the lines about the log in Caddy's log, on each node. " + s.advice.Text,
			Commands: s.advised(),
		})
	}
	if late := time.Duration(s.Behind) * time.Millisecond; s.State != logstore.Loading && late >= longBehind {
		found = append(found, trouble{
			Kind: "behind", Level: levelWarn,
			What:     fmt.Sprintf("This server is %s behind the log: its clients get events %s late, or later", spanText(late), spanText(late)),
			Remedy:   "It, or the way from the log to it, is slow: look at its CPU and network. Have its clients go to another server meanwhile, once the load balancer no longer chooses this one.",
			Commands: drainCommand(stream),
		})
	}
	if all := s.versions(); len(all) > 1 {
		found = append(found, trouble{
			Kind: "versions", Level: levelWarn,
			What:   "The servers that share the log have different versions of sse_fanin: " + strings.Join(all, "; "),
			Remedy: "During an update that is as it should be. Else bring all of them to the same version.",
		})
	}
	return found
}

// versions returns the versions of the nodes that are known, each with the nodes
// that have it.
func (s *storeStatus) versions() []string {
	names := make(map[string][]string)
	for _, n := range s.Nodes {
		if n.Version != "" {
			names[n.Version] = append(names[n.Version], n.Name)
		}
	}
	all := make([]string, 0, len(names))
	for version, nodes := range names {
		all = append(all, version+" on "+strings.Join(nodes, ", "))
	}
	slices.Sort(all)
	return all
}

// trouble is what keeps the log from being written, or read.
func (s *storeStatus) trouble(now time.Time) (trouble, bool) {
	lasts := now.Sub(time.UnixMilli(s.Since))
	switch {
	case s.State == logstore.Stalled:
		t := trouble{Kind: "log", Level: levelBad, What: "The log has not been writable for " + spanText(lasts)}
		if s.Error != "" {
			t.What += ": " + s.Error
		}
		t.What += ". Clients get nothing new until it is"
		t.Remedy, t.Commands = s.remedy()
		return t, true
	case s.State == logstore.Loading && lasts >= longLoading:
		return trouble{
			Kind: "log", Level: levelWarn, What: "The log has been loading for " + spanText(lasts) + ". Clients that come back wait for it",
			Remedy: "Opening a large log takes a while, above all after a crash. If it does not end, look at Caddy's log.",
		}, true
	case s.Error != "" && s.State == logstore.Writing && lasts < recentMinutes*time.Minute:
		t := trouble{Kind: "log", Level: levelWarn, What: "Events of the log are gone, or may be: " + s.Error}
		t.Remedy = "Clients that had some of them get a gap. After a power cut that is as sync says; else look at the disk, and at the lines about the log in Caddy's log."
		if s.Dir != "" {
			t.Commands = []string{"caddy sse-fanin log " + shellWord(s.Dir) + " --check"}
		}
		return t, true
	default:
		return trouble{}, false
	}
}

// advised returns the commands that the store's module advises, for a shell.
func (s *storeStatus) advised() []string {
	commands := make([]string, len(s.advice.Commands))
	for i, words := range s.advice.Commands {
		quoted := make([]string, len(words))
		for k, word := range words {
			quoted[k] = shellWord(word)
		}
		commands[i] = strings.Join(quoted, " ")
	}
	return commands
}

// heldBy finds the process that has a log in the error of another one.
var heldBy = regexp.MustCompile(`\bheld by process (\d+)`)

// remedy is what to do about a log that cannot be written, and commands that show
// more of what is wrong.
func (s *storeStatus) remedy() (text string, commands []string) {
	const afterwards = " It is tried again by itself."
	show := func(command string) []string {
		if s.Dir == "" {
			return nil
		}
		return []string{command + " " + shellWord(s.Dir)}
	}
	switch err := s.err; {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "Free space on the disk, or lower size in retain." + afterwards, append(show("df -h"), show("du -sh")...)
	case errors.Is(err, syscall.EROFS):
		return "The file system is read-only. Look why in the system's log, and mount it so that it can be written." + afterwards, show("findmnt -T")
	case errors.Is(err, fs.ErrPermission):
		return "Give Caddy the right to write the directory, and all that is in it." + afterwards, show("ls -la")
	case errors.Is(err, syscall.ENOTDIR):
		return "There is a file where the directory should be. Move it away, or set another dir." + afterwards, show("ls -ld")
	case errors.Is(err, logstore.ErrInUse):
		return s.inUse(afterwards)
	case s.Dir != "":
		return "Look at the disk, and at the system's log." + afterwards, append(show("df -h"), "caddy sse-fanin log "+shellWord(s.Dir)+" --check")
	case s.advice.Text != "":
		return s.advice.Text + afterwards, s.advised()
	default:
		return "Look at what keeps the log, and whether it can be reached from here." + afterwards, nil
	}
}

// inUse is the remedy for a log that another process has, or another stream of
// this one.
func (s *storeStatus) inUse(afterwards string) (text string, commands []string) {
	m := heldBy.FindStringSubmatch(s.Error)
	switch {
	case m == nil:
		return "One process has a directory at a time. Stop the other one, or give this one another dir." + afterwards, nil
	case m[1] == strconv.Itoa(os.Getpid()):
		return "That is the number of this Caddy. Either a stream that a reload has removed has the directory until its last client has left, or a process in another container has the same number: one process has a directory at a time." + afterwards, nil
	default:
		return "One process has a directory at a time. Stop process " + m[1] + ", or give this one another dir." + afterwards, []string{"ps -fp " + m[1]}
	}
}
