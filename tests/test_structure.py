"""The promises of the tree: imports point one way, `import gradclip` is light, ARCHITECTURE.md names what exists."""

from structure import (
    FRAMEWORK,
    MAY_IMPORT,
    OF_EACH_DOOR,
    ROOT,
    SOURCE,
    backward_imports,
    circles,
    files_of,
    frameworks_named,
    heavy_modules,
    import_cost,
    impure_imports,
    missing_paths,
    repeated_class_names,
    repeated_file_names,
    unplaced_folders,
)


def test_rules_and_decide_import_the_standard_library_alone():
    assert impure_imports(SOURCE) == []


def test_rules_and_decide_name_no_framework():
    assert FRAMEWORK.search("import torch")
    assert frameworks_named(SOURCE) == []


def test_imports_point_one_way():
    assert backward_imports(SOURCE) == []


def test_every_folder_of_the_package_has_its_place_in_that_direction():
    assert unplaced_folders(SOURCE) == []


def test_every_part_of_which_the_direction_is_checked_exists():
    assert [part for part in MAY_IMPORT if not all(path.is_file() for path in files_of(SOURCE, part))] == []


def test_no_module_imports_itself_by_way_of_others():
    assert circles(SOURCE) == []


def test_no_two_modules_have_the_same_name():
    assert set(repeated_file_names(SOURCE)) <= set(OF_EACH_DOOR)


def test_no_two_classes_have_the_same_name():
    assert set(repeated_class_names(SOURCE)) <= set(OF_EACH_DOOR)


def test_importing_gradclip_imports_no_framework_and_no_numpy():
    assert heavy_modules(SOURCE) == []


def test_importing_gradclip_is_as_cheap_as_a_few_dataclasses():
    assert import_cost(SOURCE) < 3.0


def test_every_path_that_the_architecture_names_exists():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    assert text.count("`") > 20
    assert missing_paths(text, ROOT) == []


def test_the_source_of_testing_needs_no_test_runner():
    assert not any("pytest" in path.read_text() for path in files_of(SOURCE, "testing"))
