package io.github.mimomobile.demo.models

import io.github.mimomobile.demo.SettingsStore
import java.io.File

/** The models whose every byte was verified, and have not changed since. */
class VerifiedModels(private val settings: SettingsStore) {
    operator fun contains(entry: ModelEntry) = mark(entry) in settings.verified

    operator fun plusAssign(entry: ModelEntry) {
        settings.verified += mark(entry)
    }

    operator fun minusAssign(entry: ModelEntry) {
        settings.verified -= mark(entry)
    }

    /** Changes when a file of the model does. */
    private fun mark(entry: ModelEntry): String {
        val files = entry.manifest?.files.orEmpty().map { File(entry.folder, it.path) }
        return "${entry.path}|${entry.manifest?.recipe}|${files.sumOf { it.length() }}|${files.maxOfOrNull { it.lastModified() } ?: 0}"
    }
}
