"""What a user of napari does: choose menu entries, drop files, press buttons and read what a panel shows.

The only place of the acceptance tests that knows private names of napari. It finds the parts of a panel by what a user
(or a screen reader) sees: the text on a button, or the accessible name of a field.
"""

from __future__ import annotations

from importlib.resources import files

from npe2 import PluginManifest
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QTimer, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QAbstractButton,
    QApplication,
    QComboBox,
    QDialogButtonBox,
    QLabel,
    QRadioButton,
    QScrollArea,
    QWidget,
)

PLUGIN = "napari-stnreg"
MANIFEST = PluginManifest.from_file(files("napari_stnreg") / "napari.yaml")
CONTRIBUTIONS = MANIFEST.contributions
LEFT = Qt.MouseButton.LeftButton


# -- menus and commands


def execute(command):
    """Run a command that the manifest registers, as the command palette does."""
    from napari._app_model import get_app_model

    return get_app_model().commands.execute_command(command).result()


def action_at(viewer, *path):
    """Return the QAction at a path of menu entries, such as ``("Layers", "Register", "...")``."""
    menu = viewer.window.main_menu
    for title in path:
        if hasattr(menu, "aboutToShow"):
            menu.aboutToShow.emit()  # napari enables and disables entries when a menu opens
        entries = {action.text().replace("&", ""): action for action in menu.actions()}
        assert title in entries, f"no {title!r} among {list(entries)}"
        action = entries[title]
        menu = action.menu()
    return action


def choose_entry(viewer, *path):
    """Choose an entry of the window's menu bar."""
    action = action_at(viewer, *path)
    assert action.isEnabled()
    action.trigger()


def menu_title(display_name):
    """Return what napari calls a widget in its menus."""
    return f"{display_name} ({MANIFEST.display_name})"


def menu_paths(command):
    """Return the places of a widget in the menu bar."""
    title = menu_title(display_name_of(command))
    paths = [("Plugins", MANIFEST.display_name, title)]
    for menu, entries in CONTRIBUTIONS.menus.items():
        if any(getattr(entry, "command", None) == command for entry in entries):
            paths.append((*(part.capitalize() for part in menu.split("/")[1:]), title))
    return paths


def open_from_menu(viewer, name):
    """Open a panel from the Layers menu and return it; ``name`` is that of its command without the plugin's."""
    command = f"{PLUGIN}.{name}"
    assert not docked(viewer, display_name_of(command)), "it is open: its menu entry would hide it"
    choose_entry(viewer, *next(path for path in menu_paths(command) if path[0] == "Layers"))
    return _only_docked(viewer, command)


def reopen_from_menu(viewer, name):
    """Close a panel if it is open, and open a new one from the Layers menu."""
    for panel in docked(viewer, display_name_of(f"{PLUGIN}.{name}")):
        viewer.window.remove_dock_widget(panel)
        panel.deleteLater()
    return open_from_menu(viewer, name)


def open_by_call(viewer, name):
    """Open a panel with ``add_plugin_dock_widget``, which hands it a proxy of the viewer, and return it."""
    command = f"{PLUGIN}.{name}"
    viewer.window.add_plugin_dock_widget(PLUGIN, display_name_of(command))
    return _only_docked(viewer, command)


def display_name_of(command):
    """Return what the manifest calls the widget of a command."""
    return next(one.display_name for one in CONTRIBUTIONS.widgets if one.command == command)


def _only_docked(viewer, command):
    (panel,) = docked(viewer, display_name_of(command))
    return panel


# -- files


def drop(viewer, *paths):
    """Drop files on the canvas; where napari asks which plugin shall read them, choose ours."""
    target = viewer.window._qt_viewer
    mime = QMimeData()
    mime.setUrls([QUrl.fromLocalFile(str(path)) for path in paths])
    none = Qt.KeyboardModifier.NoModifier
    center = target.rect().center()
    enter = QDragEnterEvent(center, Qt.DropAction.CopyAction, mime, LEFT, none)
    QApplication.sendEvent(target, enter)
    assert enter.isAccepted()
    timer = QTimer()
    timer.setInterval(20)
    timer.timeout.connect(_choose_reader)
    timer.start()
    QApplication.sendEvent(target, QDropEvent(QPointF(center), Qt.DropAction.CopyAction, mime, LEFT, none))
    timer.stop()


def _choose_reader():
    dialog = QApplication.activeModalWidget()
    if dialog is None:
        return
    readers = {button.text(): button for button in dialog.findChildren(QRadioButton)}
    if MANIFEST.display_name in readers:
        readers[MANIFEST.display_name].click()
        dialog.findChild(QDialogButtonBox).button(QDialogButtonBox.StandardButton.Ok).click()
    else:
        dialog.reject()


# -- the canvas


class CanvasUser:
    """A user's mouse over the images, at positions of the world (the last two axes are displayed).

    Parameters
    ----------
    viewer
        The viewer, in the 2D display.
    qtbot
        The fixture of pytest-qt.
    """

    def __init__(self, viewer, qtbot):
        self.viewer, self.qtbot = viewer, qtbot
        self.native = viewer.window._qt_viewer.canvas.native

    def spot(self, point, column=0, columns=1):
        """Return where a point is on screen, in one of the columns of the grid."""
        camera = self.viewer.scene.camera
        down, right = [(float(a) - b) * camera.zoom for a, b in zip(point[-2:], camera.center[-2:], strict=True)]
        width = self.native.width() / columns
        return QPoint(round(width * (column + 0.5) + right), round(self.native.height() / 2 + down))

    def click(self, point, column=0, columns=1):
        """Click a point."""
        self.drag([point], column, columns)

    def drag(self, points, column=0, columns=1):
        """Press at the first point, move over the others and release at the last."""
        spots = [self.spot(point, column, columns) for point in points]
        QTest.mouseMove(self.native, spots[0])
        self.qtbot.wait(60)  # napari takes at most one move in a while
        QTest.mousePress(self.native, LEFT, pos=spots[0])
        for spot in spots[1:]:
            QTest.mouseMove(self.native, spot)
            self.qtbot.wait(60)
        QTest.mouseRelease(self.native, LEFT, pos=spots[-1])
        self.qtbot.wait(60)


# -- panels


def docked(viewer, display_name):
    """Return the docked widgets of a manifest entry, however they were opened."""
    names = {menu_title(display_name), f"{display_name} ({PLUGIN})"}
    return [widget for name, widget in viewer.window.dock_widgets.items() if name in names]


class PanelUser:
    """A user of one docked panel.

    Parameters
    ----------
    widget
        The docked widget.
    qtbot
        The fixture of pytest-qt.
    """

    def __init__(self, widget, qtbot):
        self.widget, self.qtbot = widget, qtbot

    def find(self, kind, name):
        """Return the part of a kind with a text, an accessible name or an object name."""
        found = [part for part in self.widget.findChildren(kind) if name in _names_of(part)]
        shown = [part for part in found if part.isVisibleTo(self.widget)]
        assert len(shown or found) == 1, (
            f"{len(found)} of {kind.__name__} {name!r}; there are "
            f"{sorted({one for part in self.widget.findChildren(kind) for one in _names_of(part)})}"
        )
        return (shown or found)[0]

    def button(self, text):
        """Return a button."""
        return self.find(QAbstractButton, text)

    def click(self, text):
        """Press a button with the mouse."""
        button = self.button(text)
        self.qtbot.waitUntil(button.isVisible, timeout=2000)
        assert button.isEnabled(), f"{text!r} is disabled: {self.status}"
        spot = _spot(button)

        def is_under_pointer():
            self._scroll_to(button)  # a section that was unfolded just now takes its place
            under = button.window().childAt(button.mapTo(button.window(), spot))
            return under is button or button.isAncestorOf(under)

        self.qtbot.waitUntil(is_under_pointer, timeout=2000)
        self.qtbot.mouseClick(button, LEFT, pos=spot)

    def _scroll_to(self, part):
        parent = part.parentWidget()
        while parent is not None and parent is not self.widget:
            if isinstance(parent, QScrollArea):
                parent.ensureWidgetVisible(part)
            parent = parent.parentWidget()

    def check(self, text, checked=True):
        """Check or uncheck a box."""
        if self.button(text).isChecked() != checked:
            self.click(text)
        assert self.button(text).isChecked() == checked

    def entries(self, name):
        """Return the entries of a combo box."""
        box = self.find(QComboBox, name)
        return [box.itemText(i) for i in range(box.count())]

    def choose(self, name, text):
        """Choose an entry of a combo box by its text."""
        box, entries = self.find(QComboBox, name), self.entries(name)
        assert text in entries, f"no {text!r} in {entries}"
        box.setCurrentIndex(entries.index(text))

    def type(self, name, text):
        """Type into a line edit or a spin box, and press Return."""
        field = self._field(name)
        field.setFocus()
        field.selectAll()
        QTest.keyClicks(field, str(text))
        QTest.keyClick(field, Qt.Key.Key_Return)
        shown = field.value() if hasattr(field, "value") else field.text()
        assert str(shown) == str(text) or float(shown) == float(text), f"{name!r} shows {shown!r}"

    def _field(self, name):
        found = [
            part
            for part in self.widget.findChildren(QWidget)
            if name in (part.accessibleName(), part.objectName()) and hasattr(part, "selectAll")
        ]
        assert len(found) == 1, f"{len(found)} fields {name!r}"
        return found[0]

    @property
    def status(self):
        """The status line."""
        return self.find(QLabel, "status").text()

    def run(self, text, timeout=120_000):
        """Press a button that starts a task, and wait until it is done; return the status line."""
        self.click(text)
        self.wait(text, timeout)
        return self.status

    def wait(self, text, timeout=120_000):
        """Wait until nothing can be stopped, and the button that started a task can be pressed again."""
        stop = self.button("Stop")
        self.qtbot.waitUntil(lambda: not stop.isEnabled(), timeout=timeout)
        self.qtbot.waitUntil(lambda: self.button(text).isEnabled(), timeout=timeout)


def _names_of(part):
    text = part.text() if hasattr(part, "text") else ""
    return {text.replace("&", ""), part.accessibleName(), part.objectName()} - {""}


def _spot(button):
    """Return where to press: a check box reacts on its mark, not in the empty space beside it."""
    return QPoint(10, button.height() // 2)
