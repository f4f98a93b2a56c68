package io.github.mimomobile.runtime.files

import io.github.mimomobile.runtime.ModelManifest
import io.github.mimomobile.runtime.devices.Reference
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder

/** The readers accept and refuse what Python's do. */
class FormatsTest {
    @get:Rule
    val temporary: TemporaryFolder = TemporaryFolder()

    @Test
    fun `of reference_json`() = checkFormat("reference", temporary.newFile("reference.json")) { Reference.read(it) }

    @Test
    fun `of manifest_json`() = checkFormat("manifest", temporary.newFile("manifest.json")) {
        ModelManifest.parse(it.readText(), null, setOf("onnx"))
    }
}
