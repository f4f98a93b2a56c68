package io.github.mimomobile.demo.models

import android.content.ContentProvider
import android.content.ContentValues
import android.database.Cursor
import android.database.MatrixCursor
import android.net.Uri
import android.os.Bundle
import android.os.ParcelFileDescriptor
import android.provider.DocumentsContract
import android.provider.DocumentsContract.Document
import java.io.File
import org.robolectric.Robolectric

/**
 * A folder of this computer as Android's file picker gives it; documents are named by their paths.
 *
 * No `DocumentsProvider`: that one refuses the query of Android 7's form, which Robolectric makes of every query.
 */
class FolderProvider : ContentProvider() {
    override fun onCreate() = true

    override fun query(uri: Uri, names: Array<String>?, where: String?, values: Array<String>?, order: String?): Cursor {
        beforeListing()
        val cursor = MatrixCursor(names)
        val document = File(DocumentsContract.getDocumentId(uri))
        if (document.isFile) return cursor.apply { addRow(arrayOf<Any>(document.name, document.length())) }
        for (file in document.listFiles()!!.sorted()) {
            val row = cursor.newRow()
            row.add(Document.COLUMN_DOCUMENT_ID, file.path)
            row.add(Document.COLUMN_DISPLAY_NAME, file.name)
        }
        return cursor
    }

    override fun openFile(uri: Uri, mode: String): ParcelFileDescriptor =
        ParcelFileDescriptor.open(File(DocumentsContract.getDocumentId(uri)), ParcelFileDescriptor.parseMode(mode))

    override fun call(method: String, arg: String?, extras: Bundle?): Bundle? {
        check(method == "android:deleteDocument") { "$method is not expected" }
        check(!keepsAll) { "as Android's own provider says that a file was not deleted" }
        val uri = extras!!.getParcelable("uri", Uri::class.java)
        check(File(DocumentsContract.getDocumentId(uri)).delete()) { "$uri was not deleted" }
        return null
    }

    override fun getType(uri: Uri): String = "application/octet-stream"

    // What follows nobody asks of a picked folder.

    override fun insert(uri: Uri, values: ContentValues?): Uri = throw UnsupportedOperationException()

    override fun delete(uri: Uri, where: String?, values: Array<String>?): Int = throw UnsupportedOperationException()

    override fun update(uri: Uri, values: ContentValues?, where: String?, arguments: Array<String>?): Int =
        throw UnsupportedOperationException()

    companion object {
        private const val AUTHORITY = "io.github.mimomobile.demo.test.folder"

        /** Whether it refuses to delete. */
        var keepsAll = false

        /** Runs before a folder is listed, on the thread that asks. */
        var beforeListing = {}

        /** What the picker returns when [folder] was picked. */
        fun tree(folder: File): Uri = provided { DocumentsContract.buildTreeDocumentUri(it, folder.path) }

        /** The same for a file. */
        fun document(file: File): Uri = provided { DocumentsContract.buildDocumentUri(it, file.path) }

        private fun provided(uri: (String) -> Uri): Uri {
            Robolectric.buildContentProvider(FolderProvider::class.java).create(AUTHORITY)
            return uri(AUTHORITY)
        }
    }
}
